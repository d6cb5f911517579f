"""Commands that hand a model on: what they are called with. `flowvae.export` does the work."""

from pathlib import Path
from typing import Annotated

import typer

from flowvae.commands.adding import add
from flowvae.commands.models import Model, report


def export(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The new folder.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also encoder, decoder and sampler for onnxruntime (extra onnx).")
    ] = False,
    metrics: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A JSON file of scores; default: those of the project, or beside the model."),
    ] = None,
    license: Annotated[str | None, typer.Option(metavar="ID", help="For the model card, such as mit.")] = None,
) -> None:
    """Write a folder to hand on.

    It has the layout of a model on the Hugging Face hub: weights, config, how the model was trained and scored, a
    picture of samples, and a model card in README.md. The other commands and flowvae.load open it.
    """
    from flowvae.export.folder import export_model

    made = export_model(model, out, onnx=onnx, metrics=metrics, license=license)
    scored = "" if made.scored else ", without scores"
    report(
        f"{out}: a model card{scored}, weights and config",
        *(f"{out / 'onnx' / name}.onnx: within {gap:.0e} of torch" for name, gap in made.differences.items()),
    )


def push(
    model: Model,
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="user/name; it is created if necessary.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
) -> None:
    """Upload a model to the Hugging Face hub.

    MODEL is a folder that export wrote; any other model is exported first, without ONNX. It takes the extra hub, and
    the token that HF_TOKEN holds or that hf auth login stored.
    """
    from flowvae.export.hub import push_model

    pushed = push_model(model, repository, private=private)
    report(f"{pushed.url}: {pushed.num_files} files")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    model = "models/real-nvp-5-0"
    add(app, export, f"export {model} -o real-nvp", f"export {model} -o real-nvp --onnx --license mit")
    add(app, push, "push real-nvp me/real-nvp-mnist", f"push {model} me/real-nvp-mnist --private")
