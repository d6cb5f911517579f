"""The commands of `flowvae` and their common options."""

from typing import Annotated

import typer

from flowvae.commands import models, projects, sharing
from flowvae.commands.one_line import OneLineGroup

app = typer.Typer(
    name="flowvae",
    cls=OneLineGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nflowvae COMMAND --help has the options of a command, and examples.",
)


def print_version(wanted: bool) -> None:
    """Print the version, and end."""
    if wanted:
        from flowvae import __version__

        typer.echo(f"flowvae {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=print_version, help="Print the version.")] = False,
) -> None:
    """Variational autoencoders with normalizing flows.

    The commands on a MODEL work anywhere: on a folder that `vae.save` or `flowvae run` wrote, and on images. The others
    work in a project, a folder with dvc.yaml and params.yaml.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


models.add_to(app)
sharing.add_to(app)
projects.add_to(app)


def main() -> None:
    """The entry point of the command."""
    app(prog_name="flowvae")
