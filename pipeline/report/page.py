"""What the report holds, and the report as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowvae.data.arrays import Metadata
from pipeline import paths
from pipeline.params.schema import InterpolationConfig, Params
from pipeline.report import diagnostics, downstream, published, studies
from pipeline.report.headline import Findings, findings
from pipeline.report.latents import Latents
from pipeline.report.making import COMMANDS, NOTES, settings_used
from pipeline.report.runs import ScoredRun
from pipeline.report.studies import StudyResult
from pipeline.report.table import NLL, Summary, lowest, markdown, protocol_text, unproven, variant_table
from pipeline.report.variants import GALLERIES, IMPUTATIONS

STUDY_FIGURES = paths.FIGURES / "studies"
AGAINST_TIME = paths.FIGURES / "against_time.png"  # not an output: see `pipeline.stages.report`
STUDY_CAPTION = (
    "The title states the budget of each trial, which differs from that of the table of variants. Gradient norms are "
    "measured before clipping, over the whole run. A run has diverged if its loss is not finite. Hollow points are "
    "published results on such images, each with its own protocol."
)
PUBLISHED_NOTE = (
    "Each has its own protocol, so values are not comparable with the table above, nor always with each other. Gains "
    "over their own plain VAE, where they have one under the same protocol, are."
)


@dataclass(frozen=True)
class Report:
    """All results that the page shows.

    Args:
        params: of the project.
        runs: every variant with every seed.
        rows: the table of variants.
        studies: results of the studies.
        latents: pictures of latent space.
        metadata: of the images.
    """

    params: Params
    runs: Sequence[ScoredRun]
    rows: Sequence[Summary]
    studies: Sequence[StudyResult]
    latents: Latents
    metadata: Metadata

    @property
    def banner(self) -> str | None:
        """The warning that readers need before they compare numbers."""
        return self.runs[0].protocol["data"]["banner"]

    @property
    def best(self) -> ScoredRun:
        """The first run of the variant with the lowest NLL."""
        return next(run for run in self.runs if run.variant == lowest(self.rows, NLL).variant)

    @property
    def protocol(self) -> str:
        return protocol_text(self.runs, self.params.report.reference)

    @property
    def findings(self) -> Findings:
        """The headline."""
        return findings(self.runs, self.rows, self.params.report.reference)


def markdown_page(report: Report) -> str:
    """The text of reports/results.md."""
    best, (samples, *_) = report.best, GALLERIES
    parts = [
        f"# {report.params.report.title}",
        *([f"> **{report.banner}**"] if report.banner else []),
        f"**{report.findings.first}** {' '.join(report.findings.others)}",
        markdown(*variant_table(report.runs, report.rows)),
        unproven(report.rows, report.params.report.reference),
        report.protocol,
        "![Gains in −ELBO and NLL against depth](figures/gains_against_depth.png)",
        "![Interpolation](figures/interpolation.png)",
        interpolation_caption(report.params.interpolation, report.params.seeds[0]),
        f"![Samples of {best.name}](figures/samples/{best.name}.png)",
        f"Samples of {best.variant}, which has the lowest NLL, seed {best.seed}. {samples.note}",
    ]
    for study in report.studies:
        parts += [
            f"## Study: {study.name}",
            STUDY_CAPTION,
            f"![Study {study.name}: each term against depth](figures/studies/{study.name}.png)",
            markdown(studies.HEADINGS, study.table()),
        ]
    parts.append("## What the posterior is good for")
    if len(columns := downstream.headings(report.runs)) > 1:
        parts.append(markdown(columns, downstream.downstream_table(report.runs, report.params.report.reference)))
    parts += [
        *downstream.notes(report.runs),
        f"![Imputations of {best.name}](figures/{IMPUTATIONS.folder}/{best.name}.png)",
        f"Imputations of {best.variant}, seed {best.seed}. {IMPUTATIONS.note}",
        "## Diagnostics",
        diagnostics.NOTE,
        "![Diagnostics](figures/diagnostics.png)",
        markdown(diagnostics.HEADINGS, diagnostics.diagnostics_table(report.runs)),
    ]
    if others := published.published_table(report.runs[0]):
        parts += ["## Published results", PUBLISHED_NOTE, markdown(published.HEADINGS, others)]
    commands = "\n".join(f"    {command}  # {meaning}" for command, meaning in COMMANDS)
    parts += ["## How it was made", *NOTES, commands]
    for name, settings in settings_used(report.runs[0], report.metadata):
        parts.append(f"{name}: {'; '.join(f'{key} {value}' for key, value in settings)}.")
    return "\n\n".join(parts) + "\n"


def interpolation_caption(config: InterpolationConfig, seed: int) -> str:
    """What the figure of interpolation shows."""
    space = ", in the space of the noise to which the prior's flow maps them" if config.space == "base" else ""
    return (
        f"Latent interpolation, {config.left} (left) beside {config.right} (right), seed {seed}. Each row has two real "
        f"test images at its ends, of different labels if the data have labels. Between them is the decoded "
        f"{config.path} path between their posterior means, pushed through the posterior's flow{space}."
    )
