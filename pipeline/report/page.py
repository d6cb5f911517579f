"""The report as Markdown and as one self-contained HTML page."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_csv
from pipeline.params import Params, run_key
from pipeline.report import stability
from pipeline.report.published import results_on
from pipeline.report.runs import Run
from pipeline.report.table import Summary, describe_protocol, markdown, table

HERE = Path(__file__).parent
SWEEP_CAPTION = (
    "The sweep (reports/sweep.csv): every family at more depths, each trial trained and scored alike. Its budget is "
    "above the panels, and differs from that of the table above. Hollow points, where there are any, are what others "
    "reached on such images, each with its own protocol."
)
STABILITY_CAPTION = (
    "The stability study (reports/stability.csv): Real NVP with each normalisation at each depth, within the budget "
    "above the panels; 'both' is weight norm in s and t, and batch norm after each transformation. A run has diverged "
    "when its loss is not finite; one that gets lost with a finite loss shows in its NLL. Gradient norms are those "
    "before clipping, over the whole run; ± is one standard error over test images; images per second are those of "
    "training with validation, several trials at a time."
)
PUBLISHED_NOTE = "Each with its own protocol, so not comparable with the table above, nor always with each other."
PUBLISHED_HEADINGS = ("source", "data", "posterior", "k", "−ELBO", "NLL", "protocol", "checked")


def published(run: Run) -> list[tuple[str, ...]]:
    """Rows of what others reached on the images of a run, under PUBLISHED_HEADINGS."""
    data = run.protocol["data"]
    return [
        (
            row["source"],
            f"{row['dataset']}, {row['binarization']}",
            row["posterior"],
            row["num_transforms"],
            row["negative_elbo_nats"] or "–",
            nll_cell(row),
            row["protocol"],
            row["verified"],
        )
        for row in results_on(data["dataset"], data["binarization"])
    ]


def nll_cell(row: dict[str, str]) -> str:
    samples = f" ({row['importance_samples']} samples)" if row["importance_samples"] else ""
    return f"{row['nll_nats']}{samples}" if row["nll_nats"] else "–"


def markdown_page(params: Params, runs: list[Run], rows: list[Summary]) -> str:
    """reports/results.md."""
    banner = runs[0].protocol["data"]["banner"]
    parts = [
        f"# {params.report.title}",
        *([f"> **{banner}**"] if banner else []),
        markdown(*table(runs, rows)),
        describe_protocol(runs, params.report.reference),
        "![−ELBO and NLL against depth](figures/nll_against_depth.png)",
        "![Interpolation](figures/interpolation.png)",
        interpolation_caption(params),
        "## Depth",
        SWEEP_CAPTION,
        "![Every term of the bound against depth](figures/sweep.png)",
        "## Stability",
        STABILITY_CAPTION,
        "![NLL, divergence, gradient norms and speed against depth](figures/stability.png)",
        markdown(stability.HEADINGS, stability_rows()),
    ]
    if others := [tuple(cell.replace("|", "\\|") for cell in row) for row in published(runs[0])]:
        parts += ["## What others reached", PUBLISHED_NOTE, markdown(PUBLISHED_HEADINGS, others)]
    return "\n\n".join(parts) + "\n"


def stability_rows() -> list[tuple[str, ...]]:
    """The table of the stability study, under its headings."""
    return stability.table(read_csv(paths.REPORTS / "stability.csv"))


def html_page(params: Params, runs: list[Run], rows: list[Summary]) -> str:
    """reports/index.html: every picture is inside."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    best = min(row.negative_elbo for row in rows)
    headings, lines = table(runs, rows)
    return environment.get_template("page.html.j2").render(
        title=params.report.title,
        banner=runs[0].protocol["data"]["banner"],
        headings=[heading.replace("\\|", "|") for heading in headings],
        rows=[{"cells": line, "best": row.negative_elbo == best} for line, row in zip(lines, rows, strict=True)],
        protocol=describe_protocol(runs, params.report.reference),
        images={
            "depth": data_uri(paths.FIGURES / "nll_against_depth.png"),
            "curves": data_uri(paths.FIGURES / "learning_curves.png"),
            "interpolation": data_uri(paths.FIGURES / "interpolation.png"),
            "sweep": data_uri(paths.FIGURES / "sweep.png"),
            "stability": data_uri(paths.FIGURES / "stability.png"),
        },
        interpolation=interpolation_caption(params),
        sweep=SWEEP_CAPTION,
        stability=STABILITY_CAPTION,
        stability_headings=stability.HEADINGS,
        stability_rows=stability_rows(),
        runs=[run_pictures(run) for run in runs],
        published_headings=PUBLISHED_HEADINGS,
        published_note=PUBLISHED_NOTE,
        published=published(runs[0]),
    )


def interpolation_caption(params: Params) -> str:
    config = params.interpolation
    return (
        f"Latent interpolation, {config.left} (left) beside {config.right} (right), seed {params.seeds[0]}. Each row: "
        f"two real test images at the ends, of different labels where the data have labels, between them the decoded "
        f"{config.path} path from one's posterior mean, pushed through the flow, to the other's."
    )


def run_pictures(run: Run) -> dict[str, str]:
    key = run_key(run.variant, run.seed)
    kinds = ("samples", "reconstructions")
    return {"name": f"{run.variant}, seed {run.seed}"} | {
        kind: data_uri(paths.FIGURES / kind / f"{key}.png") for kind in kinds
    }


def data_uri(path: Path) -> str:
    """A PNG file as a data: address."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run dvc repro to make it") from error
    return "data:image/png;base64," + base64.b64encode(content).decode()
