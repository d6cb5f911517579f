"""How the results were made: images, settings and commands.

Revisions, machines and times are left out: equal results must give equal bytes, because DVC compares them, and the
revision that holds a page is known only after the page.
"""

from collections.abc import Mapping
from typing import Any

from flowvae.data.arrays import SPLITS, Metadata
from pipeline.report.runs import ScoredRun
from pipeline.report.variants import inline

NOTES = (
    "The commit that holds this page holds the code, params.yaml and dvc.lock that made it, with the checksum of every "
    "file between. The page names no commit, machine or time: equal results give equal bytes. Times and machines are "
    "in timings.csv, beside this page on the machine that last made it.",
)
COMMANDS = (
    ("git log -1 --format=%H -- reports/index.html", "the commit of this page"),
    (".venv/bin/dvc status", "whether the results belong to the code and params.yaml"),
    ("make repro", "makes whatever does not"),
)
SECTIONS = ("model", "training", "evaluation", "downstream")  # of the protocol, the same for all variants
Settings = list[tuple[str, str]]


def settings_used(run: ScoredRun, metadata: Metadata) -> list[tuple[str, Settings]]:
    """What all runs have in common, by section: names and values."""
    sections = {name: run.protocol.get(name, {}) for name in SECTIONS}
    return [
        ("Images", image_settings(metadata)),
        *((name.capitalize(), flat(section)) for name, section in sections.items() if section),
    ]


def image_settings(metadata: Metadata) -> Settings:
    """Where the images come from, and the checksums of their arrays."""
    origin = metadata.provenance
    known = {"data set": origin.dataset, "origin": origin.origin, "split": origin.split}
    if origin.processing:
        known["processing"] = origin.processing
    checksums = {f"sha256 of {split}.npy": metadata.arrays[split].sha256 for split in SPLITS}
    return [*known.items(), *checksums.items()]


def flat(section: Mapping[str, Any]) -> Settings:
    """A section of the protocol."""
    return [(name, inline(value)) for name, value in section.items()]
