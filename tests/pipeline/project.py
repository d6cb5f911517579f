"""Copies of the project with a tiny experiment, and its commands as users start them."""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PARTS = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml", "flowvae", "pipeline")
VARIANTS = ("vae", "planar-4", "real-nvp-2")
KEYS = [f"{variant}-0" for variant in VARIANTS]
TRAINED = {f"train@{key}" for key in KEYS}
EVALUATED = {f"evaluate@{key}" for key in KEYS}
DISK = 2 << 20  # bytes of a small disk: room for anything but the training images
TINY_SWEEP = {
    "families": {
        "none": {"flow": {"flow": "none"}, "num_transforms": [0]},
        "planar": {"flow": {"flow": "planar", "amortised": True}, "num_transforms": [1, 3]},
    },
    "seeds": [0],
    "settings": {},
    "over": {},
    "search": {"name": "grid"},
    "early_stopping": None,
}
NVP = {
    "flow": "real_nvp",
    "hidden_features": [8],
    "context": True,
    "log_scale_bound": 2.0,
    "weight_norm": False,
    "net_batch_norm": False,
}
TINY_STABILITY = TINY_SWEEP | {
    "families": {
        name: {"flow": NVP | {"normalization": normalization}, "num_transforms": [1, 2]}
        for name, normalization in (("none", "none"), ("batch-norm", "batch_norm"))
    }
}
NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses: no test depends on the network


def environment(project: Path, **changes: str) -> dict[str, str]:
    """This process's environment, cut off from the network, the user's settings and found data."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("FLOWVAE_", "GIT_"))}
    folder = Path(sys.executable).parent
    private = project.parent / f"{project.name}.private"
    return kept | {
        "PATH": f"{folder}{os.pathsep}{kept['PATH']}",
        "VIRTUAL_ENV": str(folder.parent),
        "PYTHONPATH": str(project),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(private / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(private / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(private / "system"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
        **changes,
    }


def command(project: Path, *arguments: str, check: bool = True, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the project; with `check`, a failure shows all that it printed."""
    ran = subprocess.run(
        arguments, cwd=project, env=environment(project, **changes), capture_output=True, text=True, check=False
    )
    assert not check or ran.returncode == 0, f"{' '.join(arguments)}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran


def dvc(project: Path, *arguments: str, check: bool = True, **changes: str) -> subprocess.CompletedProcess[str]:
    return command(project, sys.executable, "-m", "dvc", *arguments, check=check, **changes)


def stage(project: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline`, whatever its exit code."""
    return command(project, sys.executable, "-m", "pipeline", *arguments, check=False, **changes)


def commit(project: Path) -> None:
    command(project, "git", "add", "--all")
    command(project, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "results")


def copy_project(project: Path, *, git: bool) -> Path:
    """The project's code with the tiny experiment, in a new folder."""
    for part in PARTS:
        source, target = ROOT / part, project / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    (project / ".dvc" / "config.local").write_text("[core]\n    check_update = false\n")
    edit_params(project, shrink)
    if git:
        command(project, "git", "init", "--quiet", "-b", "main")
        commit(project)
    return project


def edit_params(project: Path, edit: Callable[[Any], object]) -> None:
    """Change params.yaml in place; its comments stay."""
    yaml, path = YAML(), project / "params.yaml"
    params = yaml.load(path.read_text(encoding="utf-8"))
    edit(params)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def shrink(params: Any) -> None:
    """Three variants, seconds each."""
    nvp = {"hidden_features": [8], "context": True, "log_scale_bound": 2.0}
    nvp |= {"normalization": "none", "weight_norm": False, "net_batch_norm": False}
    params["variants"] = {
        "vae": {"flow": "none", "num_transforms": 0},
        "planar-4": {"flow": "planar", "num_transforms": 2, "amortised": True},
        "real-nvp-2": {"flow": "real_nvp", "num_transforms": 1} | nvp,
    }
    params["seeds"] = [0]
    params["model"]["latent_shape"] = [4]
    params["model"]["encoder"].update(channels=[2, 2], hidden_features=[8], context_features=2)
    params["model"]["decoder"].update(channels=[2, 2], hidden_features=[8])
    params["training"].update(epochs=1, batch_size=500)
    params["training"]["schedule"].update(warmup_steps=2)
    if "min_steps" in params["training"]:
        params["training"]["min_steps"] = 0
    params["evaluation"].update(num_elbo_samples=2, num_importance_samples=2, num_nll_images=20, num_figure_images=4)
    params["interpolation"].update(left="vae", right="real-nvp-2", num_pairs=2, num_steps=3)
    params["sweep"] = {"budget": "tiny", "budgets": {"tiny": TINY_SWEEP}}
    params["stability"] = {"budget": "tiny", "budgets": {"tiny": TINY_STABILITY}}


def stages_run(ran: subprocess.CompletedProcess[str]) -> set[str]:
    """Stages that DVC ran but for fetch, which always runs."""
    return set(re.findall(r"^Running stage '(.+)':$", ran.stdout + ran.stderr, re.MULTILINE)) - {"fetch"}


def sweep_rows(project: Path) -> list[dict[str, str]]:
    """The table that the sweep left."""
    with (project / "reports/sweep.csv").open() as file:
        return list(csv.DictReader(file))


def fill(disk: Path) -> None:
    with (disk / "full").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))
