"""Artifacts of a workflow run in Prefect: its metrics, figures and pages, listed by DVC, and the progress of stages."""

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.runtime import deployment, flow_run

from flowvae.errors import InputError
from pipeline.dvc_internals import Repo
from pipeline.report.embedding import data_uri
from pipeline.workflow.graph import StageGraph

Metrics = Mapping[str, Mapping[str, float]]  # by file, then by name
IMAGES = (".png", ".jpg", ".jpeg", ".svg")
SECONDS_BETWEEN_UPDATES = 10  # of a progress artifact


class ProgressArtifact:
    """The progress of a stage as a Prefect artifact. A stage that reports no progress has none.

    Args:
        stage: its name.
        warn: called with one line if the server does not respond; the stage continues.
    """

    def __init__(self, stage: str, warn: Callable[[str], None]) -> None:
        self.stage, self.warn = stage, warn
        self.artifact: UUID | None = None
        self.last_update = 0.0

    def update(self, fraction: float) -> None:
        """Show the finished fraction, at most every SECONDS_BETWEEN_UPDATES."""
        if time.monotonic() - self.last_update > SECONDS_BETWEEN_UPDATES:
            self.last_update = time.monotonic()
            self._send(100 * fraction)

    def finish(self) -> None:
        """Show that the stage is finished, if its progress was shown before."""
        if self.artifact:
            self._send(100.0)

    def _send(self, percent: float) -> None:
        try:
            if self.artifact:
                update_progress_artifact(self.artifact, percent)
            else:
                artifact = create_progress_artifact(percent, key=key_of(self.stage), description=self.stage)
                assert isinstance(artifact, UUID)  # not a coroutine, because this code is synchronous
                self.artifact = artifact
        except httpx.HTTPError as error:
            self.warn(f"progress is not shown: {error}")


def show(graph: StageGraph) -> None:
    """Create artifacts of the project's metrics, figures and pages."""
    if table := metrics_table(read_metrics(graph.repo)):
        create_table_artifact(table, key="metrics", description="All metrics in DVC")
    if images := figures(graph.repo):
        text = "\n\n".join(f"## {path.stem}\n\n![{path.stem}]({data_uri(path)})" for path in images)
        create_markdown_artifact(text, key="figures", description="The images among the plots of dvc.yaml")
    for page in filter(Path.is_file, graph.outputs):
        if page.suffix == ".md":
            create_markdown_artifact(with_embedded_images(page), key=key_of(page.stem), description=page.name)
        if page.suffix == ".html" and (link := lasting_link(page)):
            create_link_artifact(link, link_text=link, key=key_of(page.stem), description=page.name)


def lasting_link(page: Path) -> str | None:
    """Where a page can be opened after the run: in FLOWVAE_STORAGE if it is set, else in this folder if it stays.

    Returns:
        Its URI; None if it is gone with the clone of this run.
    """
    if not (storage := os.environ.get("FLOWVAE_STORAGE")):
        return page.as_uri() if folder_stays() else None
    try:
        return store_page(page, storage)
    except InputError as error:
        get_run_logger().warning(f"{page.name} is not stored: {error}")
        return None


def folder_stays() -> bool:
    """Whether this folder is the user's or a copy in it, and not a clone that was made for the run of a deployment."""
    own = os.environ.get("FLOWVAE_FOLDER")
    return deployment.id is None or (own is not None and Path.cwd().is_relative_to(own))


def store_page(page: Path, uri: str) -> str:
    """Copy a page into storage, under the date and the name of this run.

    Returns:
        Its URI, without the options of the storage's.

    Raises:
        InputError: the storage is invalid or unavailable.
    """
    from pipeline.distributed.storage import Storage  # which takes a while, and is needed only here

    storage = Storage.of(uri, f"reports/{flow_run.scheduled_start_time:%Y-%m-%d}-{key_of(flow_run.name)}")
    storage.write(page.name, page.read_bytes())
    scheme = urlsplit(uri).scheme
    return f"{scheme}://{storage.folder}/{page.name}" if scheme else Path(storage.folder, page.name).as_uri()


def key_of(name: str) -> str:
    """A name in the form that Prefect requires of an artifact's key."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def read_metrics(repo: Repo) -> Metrics:
    """All metrics that exist in the workspace."""
    (workspace,) = repo.metrics.show().values()
    return {path: content["data"] for path, content in workspace.get("data", {}).items() if "data" in content}


def metrics_table(metrics: Metrics) -> list[dict[str, Any]]:
    """One row per file, with all columns in every row."""
    columns = dict.fromkeys(name for values in metrics.values() for name in values)
    return [{"metrics": path} | {name: values.get(name) for name in columns} for path, values in metrics.items()]


def figures(repo: Repo) -> list[Path]:
    """The images among the plots at the top level of dvc.yaml."""
    names: dict[str, None] = {}
    for revision in repo.plots.collect():
        for content in revision.get("workspace", {}).get("definitions", {}).get("data", {}).values():
            names |= dict.fromkeys(content.get("data", {}))
    paths = (Path(repo.root_dir, name) for name in names)
    return [path for path in paths if path.suffix.lower() in IMAGES and path.is_file()]


def with_embedded_images(page: Path) -> str:
    """The text of a Markdown page, with its images embedded as data URIs."""

    def embed(match: re.Match[str]) -> str:
        image = page.parent / match["path"]
        return f"![{match['text']}]({data_uri(image)})" if image.is_file() else match[0]

    return re.sub(r"!\[(?P<text>[^\]]*)\]\((?P<path>[^):]+)\)", embed, page.read_text(encoding="utf-8"))
