"""Copies of the project with a tiny experiment, and its commands as users start them."""

import csv
import json
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
PARTS = (
    ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "pyproject.toml", "dvc.yaml", "params.yaml",
    "flowvae", "pipeline",
    "reports/studies/.gitkeep",  # the report depends on the folder, which without studies holds nothing else
)  # fmt: skip
VARIANTS = ("vae", "planar-4", "real-nvp-2")
RUNS = [f"{variant}-0" for variant in VARIANTS]
TRAINED = {f"train@{run}" for run in RUNS}
EVALUATED = {f"evaluate@{run}" for run in RUNS}
STUDIES = {"study@depth", "study@stability"}
DISK = 2 << 20  # bytes of a small disk: room for everything but the training images
NO_FLOW = {"flow": "none"}
PLANAR = {"flow": "planar", "num_transforms": [1, 3], "amortised": True}
TINY = {
    "families": {
        "none": {"posterior": NO_FLOW, "prior": NO_FLOW},
        "planar": {"posterior": PLANAR, "prior": NO_FLOW},
    },
    "seeds": [0],
    "settings": {},
    "over": {},
    "search": {"name": "grid"},
    "early_stopping": {"name": "none"},
}
REAL_NVP = {
    "flow": "real_nvp",
    "num_transforms": 1,
    "hidden_features": [8],
    "context": True,
    "log_scale_bound": 2.0,
    "normalization": "none",
    "weight_norm": False,
    "net_batch_norm": False,
}
TINY_STABILITY = TINY | {
    "families": {
        name: {
            "posterior": REAL_NVP | {"num_transforms": [1, 2], "normalization": normalization},
            "prior": NO_FLOW,
        }
        for name, normalization in (("none", "none"), ("batch-norm", "batch_norm"))
    }
}
NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses: no test depends on the network


def environment(project: Path, **changes: str) -> dict[str, str]:
    """This process's environment without the network, the user's settings and the real data."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("FLOWVAE_", "GIT_"))}
    folder = Path(sys.executable).parent
    private = project.parent / f"{project.name}.private"
    return kept | {
        "PATH": f"{folder}{os.pathsep}{kept['PATH']}",
        "VIRTUAL_ENV": str(folder.parent),
        "PYTHONPATH": f"{project}{os.pathsep}{ROOT}",  # some projects of tests have no code of their own
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
    """Run a command in the project; with `check`, it must succeed, and a failure shows all its output."""
    ran = subprocess.run(
        arguments, cwd=project, env=environment(project, **changes), capture_output=True, text=True, check=False
    )
    assert not check or ran.returncode == 0, f"{' '.join(arguments)}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran


def dvc(project: Path, *arguments: str, check: bool = True, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command of DVC's in the project."""
    return command(project, sys.executable, "-m", "dvc", *arguments, check=check, **changes)


def stage(project: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m pipeline` in the project; it may fail."""
    return command(project, sys.executable, "-m", "pipeline", *arguments, check=False, **changes)


def workflow(project: Path, prefect_home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m pipeline.workflow` in the project, without a server; it may fail."""
    settings = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "")  # Prefect calls loopback
    settings["PREFECT_HOME"] = str(prefect_home)
    return command(project, sys.executable, "-m", "pipeline.workflow", *arguments, check=False, **settings)


def ran_in(ran: subprocess.CompletedProcess[str]) -> set[str]:
    """The stages that a workflow ran, whether or not they succeeded, but not those that it took from DVC's cache."""
    ended = re.findall(r"^(\S+) (?:failed|finished in \d+ \w+)(?:: (.*))?", ran.stdout, re.MULTILINE)
    return {stage for stage, result in ended if result not in ("taken from DVC's cache", "is up to date")}


def add_stage(project: Path, text: str) -> None:
    """Add a stage to dvc.yaml, indented as there."""
    path = project / "dvc.yaml"
    path.write_text(path.read_text().replace("stages:", "stages:" + text, 1))


def commit(project: Path) -> None:
    """Commit all files to git."""
    command(project, "git", "add", "--all")
    command(project, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "results")


def contents(project: Path) -> dict[str, bytes]:
    """All files of the user's in a project: neither git's, nor DVC's cache and temporary ones, nor logs."""
    hidden = (".git/", ".dvc/cache/", ".dvc/tmp/", "logs/")
    files = {path.relative_to(project).as_posix(): path for path in project.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items()) if not name.startswith(hidden)}


def with_posterior(**settings: Any) -> dict[str, Any]:
    """A variant with a flow in the posterior only."""
    return {"posterior": settings, "prior": NO_FLOW}


def planar(**changes: Any) -> dict[str, Any]:
    """A family with planar flows in the posterior."""
    return with_posterior(**PLANAR | changes)


def real_nvp(**changes: Any) -> dict[str, Any]:
    """A family with Real NVP in the posterior."""
    return with_posterior(**REAL_NVP | changes)


def settings_only(parent: Path) -> Path:
    """A new project with only params.yaml and dvc.yaml."""
    folder = parent / "project"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


def project_with_stages(parent: Path, stages: str, params: str) -> Path:
    """A new project with these contents of dvc.yaml and params.yaml and a source file, in which nothing has run."""
    folder = parent / "project"
    folder.mkdir()
    for name, text in {"dvc.yaml": stages, "params.yaml": params, "source.txt": "source\n"}.items():
        (folder / name).write_text(text)
    dvc(folder, "init", "--quiet", "--no-scm")
    return folder


def copy_project(project: Path, *, git: bool) -> Path:
    """Copy the project's code into a new folder, with the tiny experiment."""
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
    """Change params.yaml in place and keep its comments."""
    yaml, path = YAML(), project / "params.yaml"
    params = yaml.load(path.read_text(encoding="utf-8"))
    edit(params)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def freeze_studies(project: Path) -> None:
    """Let DVC skip the studies, so that no test starts Ray unless it means to.

    `dvc freeze` refuses the instances of a matrix, but reads what it writes for other stages.
    """
    path = project / "dvc.yaml"
    before = path.read_text()
    after = before.replace("\n  study:\n", "\n  study:\n    frozen: true\n")
    assert after != before
    path.write_text(after)


def shrink(params: Any) -> None:
    """Make the experiment tiny: three variants and two studies, seconds each."""
    posteriors = {"vae": NO_FLOW, "planar-4": PLANAR | {"num_transforms": 2}, "real-nvp-2": REAL_NVP}
    params["variants"] = {
        name: unshared({"posterior": posterior, "prior": NO_FLOW}) for name, posterior in posteriors.items()
    }
    params["variants"]["planar-4"]["prior"] = unshared(REAL_NVP | {"context": False})
    params["seeds"] = [0]
    params["model"]["latent_shape"] = [4]
    params["model"]["encoder"].update(channels=[2, 2], hidden_features=[8], context_features=2)
    params["model"]["decoder"].update(channels=[2, 2], hidden_features=[8])
    params["training"].update(epochs=1, min_steps=0, batch_size=500)
    params["training"]["schedule"].update(warmup_steps=2)
    params["evaluation"].update(num_elbo_samples=2, num_importance_samples=2, num_nll_images=20, num_figure_images=4)
    params["downstream"]["imputation"].update(num_images=4, num_particles=4, num_temperatures=3, num_steps=2)
    params["downstream"]["probe"].update(num_labels=[2, 5, 1000], num_draws=2)
    params["interpolation"].update(left="vae", right="real-nvp-2", num_pairs=2, num_steps=3)
    params["studies"] = unshared({"depth": TINY, "stability": TINY_STABILITY})


def unshared(value: Any) -> Any:
    """A copy in which no object appears twice: YAML would write the second as an alias, and edits would change both."""
    return json.loads(json.dumps(value))


def stages_run(ran: subprocess.CompletedProcess[str]) -> set[str]:
    """The stages that DVC ran, without fetch, which always runs."""
    return set(re.findall(r"^Running stage '(.+)':$", ran.stdout + ran.stderr, re.MULTILINE)) - {"fetch"}


def study_rows(project: Path, name: str = "depth") -> list[dict[str, str]]:
    """The table that a study wrote."""
    with (project / f"reports/studies/{name}.csv").open() as file:
        return list(csv.DictReader(file))


def fill(disk: Path) -> None:
    """Write until the disk is full."""
    with (disk / "full").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))
