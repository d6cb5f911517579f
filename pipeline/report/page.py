"""The report as Markdown and as one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline import paths
from pipeline.params.schema import InterpolationConfig, Params
from pipeline.report import diagnostics, published, studies
from pipeline.report.embedding import data_uri
from pipeline.report.runs import ScoredRun
from pipeline.report.studies import StudyResult
from pipeline.report.table import Summary, markdown, protocol_text, unproven, variant_table

TEMPLATES = Path(__file__).parent
STUDY_FIGURES = paths.FIGURES / "studies"
AGAINST_TIME = paths.FIGURES / "against_time.png"  # not an output: see `pipeline.stages.report`
STUDY_CAPTION = (
    "The title states the budget of each trial, which differs from that of the table of variants. Gradient norms are "
    "measured before clipping, over the whole run. A run has diverged if its loss is not finite. Hollow points are "
    "published results on such images, each with its own protocol."
)
SAMPLES_NOTE = (
    "Means of p(x|z), and draws from it, at draws of z from the prior, beside test images. At temperature T, the noise "
    "that the prior maps to z is T times as large; T = 1 is the model."
)
NEAREST_NOTE = (
    "Rows of draws from the model, at temperature 1, each above the training images that are nearest in pixels. The "
    "table of diagnostics has the distances."
)
PUBLISHED_NOTE = (
    "Each has its own protocol, so they are not comparable with the table above, nor always with each other."
)


@dataclass(frozen=True)
class Report:
    """All results that the page shows.

    Args:
        params: of the project.
        runs: every variant with every seed.
        rows: the table of variants.
        studies: results of the studies.
    """

    params: Params
    runs: Sequence[ScoredRun]
    rows: Sequence[Summary]
    studies: Sequence[StudyResult]

    @property
    def banner(self) -> str | None:
        """The warning that readers need before they compare numbers."""
        return self.runs[0].protocol["data"]["banner"]

    @property
    def best(self) -> ScoredRun:
        """The first run of the variant with the lowest −ELBO."""
        lowest = min(self.rows, key=lambda row: row.values["negative_elbo_nats"])
        return next(run for run in self.runs if run.variant == lowest.variant)

    @property
    def protocol(self) -> str:
        return protocol_text(self.runs, self.params.report.reference)


def markdown_page(report: Report) -> str:
    """The text of reports/results.md."""
    best = report.best
    parts = [
        f"# {report.params.report.title}",
        *([f"> **{report.banner}**"] if report.banner else []),
        markdown(*variant_table(report.runs, report.rows)),
        unproven(report.rows, report.params.report.reference),
        report.protocol,
        "![Gains in −ELBO and NLL against depth](figures/gains_against_depth.png)",
        "![Interpolation](figures/interpolation.png)",
        interpolation_caption(report.params.interpolation, report.params.seeds[0]),
        f"![Samples of {best.name}](figures/samples/{best.name}.png)",
        f"Samples of {best.variant}, which has the lowest −ELBO, seed {best.seed}. {SAMPLES_NOTE}",
    ]
    for study in report.studies:
        parts += [
            f"## Study: {study.name}",
            STUDY_CAPTION,
            f"![Study {study.name}: each term against depth](figures/studies/{study.name}.png)",
            markdown(studies.HEADINGS, study.table()),
        ]
    parts += [
        "## Diagnostics",
        diagnostics.NOTE,
        "![Diagnostics](figures/diagnostics.png)",
        markdown(diagnostics.HEADINGS, diagnostics.diagnostics_table(report.runs)),
    ]
    if others := published.published_table(report.runs[0]):
        parts += ["## Published results", PUBLISHED_NOTE, markdown(published.HEADINGS, others)]
    return "\n\n".join(parts) + "\n"


def html_page(report: Report) -> str:
    """The text of reports/index.html; all pictures are embedded."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    headings, cells = variant_table(report.runs, report.rows)
    return environment.get_template("page.html.j2").render(
        title=report.params.report.title,
        banner=report.banner,
        headings=headings,
        rows=cells,
        best=[i for i, row in enumerate(report.rows) if row.variant == report.best.variant],
        unproven=unproven(report.rows, report.params.report.reference),
        protocol=report.protocol,
        images={
            "depth": data_uri(paths.FIGURES / "gains_against_depth.png"),
            "curves": data_uri(paths.FIGURES / "learning_curves.png"),
            "interpolation": data_uri(paths.FIGURES / "interpolation.png"),
            "diagnostics": data_uri(paths.FIGURES / "diagnostics.png"),
        },
        against_time=AGAINST_TIME.relative_to(paths.REPORTS).as_posix(),
        interpolation=interpolation_caption(report.params.interpolation, report.params.seeds[0]),
        studies=[
            {"name": study.name, "image": data_uri(STUDY_FIGURES / f"{study.name}.png"), "rows": study.table()}
            for study in report.studies
        ],
        samples_note=SAMPLES_NOTE,
        nearest_note=NEAREST_NOTE,
        study_caption=STUDY_CAPTION,
        study_headings=studies.HEADINGS,
        runs=[run_pictures(run) for run in report.runs],
        diagnostics_note=diagnostics.NOTE,
        diagnostics_headings=diagnostics.HEADINGS,
        diagnostics=diagnostics.diagnostics_table(report.runs),
        published_headings=published.HEADINGS,
        published_note=PUBLISHED_NOTE,
        published=published.published_table(report.runs[0]),
    )


def interpolation_caption(config: InterpolationConfig, seed: int) -> str:
    """What the figure of interpolation shows."""
    space = ", in the space of the noise to which the prior's flow maps them" if config.space == "base" else ""
    return (
        f"Latent interpolation, {config.left} (left) beside {config.right} (right), seed {seed}. Each row has two real "
        f"test images at its ends, of different labels if the data have labels. Between them is the decoded "
        f"{config.path} path between their posterior means, pushed through the posterior's flow{space}."
    )


def run_pictures(run: ScoredRun) -> dict[str, str]:
    """Embedded figures of one run, and its title."""
    return {
        "name": f"{run.variant}, seed {run.seed}",
        **{
            folder: data_uri(paths.FIGURES / folder / f"{run.name}.png")
            for folder in ("samples", "nearest", "reconstructions")
        },
    }
