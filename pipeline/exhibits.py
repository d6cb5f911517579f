"""What a run has to show, found by asking DVC: metrics, figures and pages."""

import base64
import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvc.repo import Repo

Metrics = Mapping[str, Mapping[str, float]]  # by file, by name
IMAGES = (".png", ".jpg", ".jpeg", ".svg")
DONE = re.compile(r"\b(?:epoch|step|trial|image)s? (\d+)/(\d+)\b")


def read_metrics(repo: Repo) -> Metrics:
    """All metrics of the workspace that are there."""
    (shown,) = repo.metrics.show().values()
    return {path: found["data"] for path, found in shown.get("data", {}).items() if "data" in found}


def metrics_table(metrics: Metrics) -> list[dict[str, Any]]:
    """A row per file, with all columns in every row."""
    columns = {name: None for values in metrics.values() for name in values}
    return [{"metrics": path} | {name: values.get(name) for name in columns} for path, values in metrics.items()]


def figures(repo: Repo) -> list[Path]:
    """The images among the plots that dvc.yaml names at its top level."""
    found = {}
    for revision in repo.plots.collect():
        for content in revision.get("workspace", {}).get("definitions", {}).get("data", {}).values():
            found |= dict.fromkeys(content.get("data", {}))
    paths = (Path(repo.root_dir, name) for name in found)
    return [path for path in paths if path.suffix.lower() in IMAGES and path.is_file()]


def standing_alone(page: Path) -> str:
    """The text of a Markdown page, with its images inside."""

    def embed(match: re.Match[str]) -> str:
        image = page.parent / match["path"]
        return f"![{match['text']}]({data_uri(image)})" if image.is_file() else match[0]

    return re.sub(r"!\[(?P<text>[^\]]*)\]\((?P<path>[^):]+)\)", embed, page.read_text(encoding="utf-8"))


def data_uri(image: Path) -> str:
    kind, _ = mimetypes.guess_type(image.name)
    return f"data:{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"


def fraction_done(line: str) -> float | None:
    """How far a stage is that says 'epoch 2/5', 'step 100/2600', 'trials 3/9' or 'images 512/11000'."""
    matches = DONE.findall(line)
    done, total = map(int, matches[-1]) if matches else (0, 0)
    return min(1.0, done / total) if total else None
