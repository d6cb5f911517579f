"""What one edit makes stale: the stages whose own dependencies and params change, as `dvc status` reports them.

What follows from changed outputs is not in these tables: DVC finds out when it runs the stages.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from project import (
    EVALUATED,
    NO_FLOW,
    REAL_NVP,
    ROOT,
    STUDIES,
    TINY,
    TRAINED,
    VARIANTS,
    commit,
    dvc,
    edit_params,
    environment,
    unshared,
)
from ruamel.yaml import YAML

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in a package that DVC uses

# The variants and studies of the tiny experiment, and one more variant, written with merge keys.
ANCHORED = """
variants:
  vae: {posterior: {flow: none}, prior: {flow: none}}
  planar-4:
    posterior: &planar {flow: planar, num_transforms: 2, amortised: true}
    prior:
      flow: real_nvp
      num_transforms: 1
      hidden_features: [8]
      context: false
      log_scale_bound: 2.0
      normalization: none
      weight_norm: false
      net_batch_norm: false
  real-nvp-2:
    posterior: &real_nvp
      flow: real_nvp
      num_transforms: 1
      hidden_features: [8]
      context: true
      log_scale_bound: 2.0
      normalization: none
      weight_norm: false
      net_batch_norm: false
    prior: {flow: none}
  real-nvp-3: {posterior: {<<: *real_nvp, num_transforms: 2}, prior: {flow: none}}
studies:
  depth:
    families:
      none: {posterior: {flow: none}, prior: {flow: none}}
      planar: {posterior: {<<: *planar, num_transforms: [1, 3]}, prior: {flow: none}}
    seeds: [0]
    settings: {}
    over: {}
    search: {name: grid}
    early_stopping: {name: none}
  stability:
    families:
      none: {posterior: {<<: *real_nvp, num_transforms: [1, 2]}, prior: {flow: none}}
      batch-norm:
        posterior: {<<: *real_nvp, num_transforms: [1, 2], normalization: batch_norm}
        prior: {flow: none}
    seeds: [0]
    settings: {}
    over: {}
    search: {name: grid}
    early_stopping: {name: none}
"""
PLANAR_8 = {"flow": "planar", "num_transforms": 8, "amortised": False}
ADDED = {"train@real-nvp-3-0", "evaluate@real-nvp-3-0"}
TRAINING, EVALUATION = TRAINED | {"train@real-nvp-3-0"}, EVALUATED | {"evaluate@real-nvp-3-0"}
ALL_VARIANTS = (*VARIANTS, "real-nvp-3")
REPORT, INTERPOLATE, PREPARE, NOTHING = {"report"}, {"interpolate"}, {"prepare"}, set()

# The file or folder that gets a comment, and the stages that are stale then.
CODE = {
    "pipeline/report/table.py": REPORT,
    "pipeline/report/columns.py": REPORT,
    "pipeline/report/figures/style.py": REPORT,  # the colours of all figures
    "pipeline/report/figures/study.py": REPORT,
    "pipeline/report/page.html.j2": REPORT,
    "pipeline/report/published.csv": REPORT,
    "pipeline/stages/report.py": REPORT,
    "pipeline/report/page.js": REPORT,
    "pipeline/latents.py": INTERPOLATE,
    "flowvae/pictures.py": EVALUATION | INTERPOLATE,  # write_png
    "pipeline/scores.py": EVALUATION | STUDIES,
    "pipeline/fitting.py": TRAINING | STUDIES,
    "pipeline/device.py": TRAINING | EVALUATION | INTERPOLATE | STUDIES,
    "pipeline/downloads.py": PREPARE,
    "pipeline/stages/train.py": TRAINING,
    "pipeline/stages/study.py": STUDIES,
    "pipeline/study/points.py": STUDIES,
    "pipeline/params/trees.py": STUDIES,  # merges the settings of a study
    "pipeline/distributed/training.py": TRAINING | STUDIES,
    "pipeline/distributed/workers.py": TRAINING | STUDIES,  # the all-reduce
    "pipeline/distributed/tuning.py": STUDIES,
    "pipeline/distributed/searching.py": STUDIES,
    "flowvae/datasets/svhn.py": PREPARE,
    "flowvae/datasets/binarization.py": PREPARE,
    "flowvae/data/images.py": PREPARE | TRAINING | EVALUATION | INTERPOLATE | STUDIES | REPORT,
    "flowvae/evaluation.py": EVALUATION | STUDIES,
    "flowvae/interpolation.py": INTERPOLATE,
    "flowvae/training/loop.py": TRAINING | STUDIES,
    "flowvae/training/batches.py": TRAINING | STUDIES,
    "flowvae/model/flows/planar.py": TRAINING | EVALUATION | INTERPOLATE | STUDIES,
    "flowvae/randomness.py": PREPARE | TRAINING | EVALUATION | INTERPOLATE | STUDIES,
    "flowvae/config.py": PREPARE | TRAINING | EVALUATION | INTERPOLATE | STUDIES | REPORT,
    "flowvae/errors.py": NOTHING,
    "flowvae/__init__.py": NOTHING,
    "pipeline/__main__.py": NOTHING,
    "pipeline/paths.py": NOTHING,
    "pipeline/preset.py": NOTHING,
    "pipeline/stages/fetch.py": NOTHING,  # it always runs
    "pipeline/params/reading.py": NOTHING,
    "pipeline/params/schema.py": NOTHING,
    "pipeline/params/checks.py": NOTHING,
    "pipeline/distributed/arrays.py": NOTHING,
    "pipeline/distributed/cluster.py": NOTHING,
    "pipeline/distributed/remote.py": NOTHING,
    "pipeline/distributed/storage.py": NOTHING,
    "pipeline/running": NOTHING,
    "pipeline/workflow": NOTHING,
    "pipeline/submit": NOTHING,
    "presets": NOTHING,
}


def both(*edits: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda params: [edit(params) for edit in edits]


# What changes in params.yaml, and the stages that are stale then.
PARAMS = {
    "title of the report": (lambda p: p["report"].update(title="Another"), REPORT),
    "epochs": (lambda p: p["training"].update(epochs=2), TRAINING | STUDIES),
    "width of the encoder": (lambda p: p["model"]["encoder"].update(hidden_features=[9]), TRAINING | STUDIES),
    "seed of evaluation": (lambda p: p["evaluation"].update(seed=1), EVALUATION | STUDIES),
    "path of the interpolation": (lambda p: p["interpolation"].update(path="linear"), INTERPOLATE),
    "variants of the interpolation": (lambda p: p["interpolation"].update(left="planar-4"), INTERPOLATE),
    "binarization": (lambda p: p["data"].update(binarization="dynamic"), PREPARE),
    "another seed": (
        lambda p: p.update(seeds=[0, 1]),
        {f"{stage}@{variant}-1" for stage in ("train", "evaluate") for variant in ALL_VARIANTS} | INTERPOLATE | REPORT,
    ),
    "another variant": (
        lambda p: p["variants"].update({"planar-8": {"posterior": PLANAR_8, "prior": NO_FLOW}}),
        {"train@planar-8-0", "evaluate@planar-8-0"} | INTERPOLATE | REPORT,
    ),
    "one variant fewer": (lambda p: p["variants"].pop("planar-4"), INTERPOLATE | REPORT),
    "depth of one variant": (
        lambda p: p["variants"]["real-nvp-3"]["posterior"].update(num_transforms=3),
        {"train@real-nvp-3-0"} | INTERPOLATE | REPORT,
    ),
    "depth of a variant that others copy": (
        lambda p: p["variants"]["real-nvp-2"]["posterior"].update(num_transforms=3),
        {"train@real-nvp-2-0"} | INTERPOLATE | REPORT,
    ),
    "bound of a variant that others copy": (
        lambda p: p["variants"]["real-nvp-2"]["posterior"].update(log_scale_bound=3.0),
        {"train@real-nvp-2-0", "train@real-nvp-3-0", "study@stability"} | INTERPOLATE | REPORT,
    ),
    "a variant that one family copies": (
        lambda p: p["variants"]["planar-4"]["posterior"].update(amortised=False),
        {"train@planar-4-0", "study@depth"} | INTERPOLATE | REPORT,
    ),
    "depths of a family": (
        lambda p: p["studies"]["depth"]["families"]["planar"]["posterior"].update(num_transforms=[1, 4]),
        {"study@depth"} | REPORT,
    ),
    "seeds of a study": (lambda p: p["studies"]["stability"].update(seeds=[1]), {"study@stability"} | REPORT),
    "settings of a study": (
        lambda p: p["studies"]["depth"].update(settings={"training": {"epochs": 2}}),
        {"study@depth"} | REPORT,
    ),
    "another study": (
        lambda p: p["studies"].update(third=unshared(TINY)),
        {"study@third"} | REPORT,
    ),
    "one study fewer": (lambda p: p["studies"].pop("depth"), REPORT),
    "no studies": (lambda p: p.update(studies={}), REPORT),
    "several at once": (
        both(lambda p: p["training"].update(epochs=2), lambda p: p["interpolation"].update(num_steps=4)),
        TRAINING | STUDIES | INTERPOLATE,
    ),
}


def stale(project: Path) -> set[str]:
    """Stages that `dvc status` reports, without fetch, which always runs. A process of its own would take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment(project))
        patch.chdir(project)
        with Repo() as repo:
            return set(repo.status()) - {"fetch"}


@pytest.fixture(scope="module")
def project(reproduced, tmp_path_factory) -> Path:
    """The reproduced project, with merge keys in params.yaml, and with one more variant that merges another."""
    folder = shutil.copytree(reproduced.folder, tmp_path_factory.mktemp("staleness") / "project")
    shutil.copytree(ROOT / "presets", folder / "presets")
    edit_params(folder, lambda params: [params.pop(section) for section in ("variants", "studies")])
    path = folder / "params.yaml"
    path.write_text(path.read_text() + ANCHORED)
    assert stale(folder) == ADDED | INTERPOLATE | REPORT  # the resolved values of all others are the same
    for part in ("models", "curves", "metrics", "scores", "reports/figures"):
        for source in [*(folder / part).rglob("real-nvp-2-0"), *(folder / part).rglob("real-nvp-2-0.*")]:
            target = source.with_name(source.name.replace("real-nvp-2", "real-nvp-3"))
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    dvc(folder, "commit", "--force", *ADDED, "interpolate", "report")
    assert stale(folder) == NOTHING
    commit(folder)
    return folder


@contextmanager
def restored(path: Path) -> Iterator[None]:
    """Restore a file, or all files of a folder, when the block ends."""
    files = {file: file.read_bytes() for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}
    try:
        yield
    finally:
        for file, content in files.items():
            file.write_bytes(content)


def add_comment(path: Path) -> None:
    """Append a line that changes nothing to a file, or to all files of a folder."""
    for file in [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]:
        comment = {".j2": "{# another line #}", ".csv": ""}.get(file.suffix, "# another line")
        file.write_text(file.read_text() + f"{comment}\n")


@pytest.mark.parametrize(("path", "stages"), CODE.items(), ids=CODE)
def test_code(project, path, stages):
    with restored(project / path):
        add_comment(project / path)
        assert stale(project) == stages


@pytest.mark.parametrize(("edit", "stages"), PARAMS.values(), ids=PARAMS)
def test_params(project, edit, stages):
    with restored(project / "params.yaml"):
        edit_params(project, edit)
        assert stale(project) == stages


def test_a_comment_and_the_order_of_params_change_nothing(project):
    path = project / "params.yaml"
    with restored(path):
        params = YAML(typ="safe", pure=True).load(path)
        with path.open("w") as file:
            YAML().dump(unshared(dict(reversed(params.items()))), file)
        add_comment(path)
        assert stale(project) == NOTHING


def test_merged_values_are_those_of_the_tiny_experiment(project):
    variants = YAML(typ="safe", pure=True).load(project / "params.yaml")["variants"]
    assert variants["real-nvp-2"]["posterior"] == REAL_NVP
    assert variants["real-nvp-3"]["posterior"] == REAL_NVP | {"num_transforms": 2}


def test_edits_are_undone(project):
    """Otherwise the tables above would say nothing."""
    assert stale(project) == NOTHING
