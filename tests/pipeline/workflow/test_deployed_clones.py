"""Deployments whose runs each work in a clone: infra/prefect/prefect.yaml on a real server with a real worker."""

import time

import pytest
from orchestra import Orchestra, with_infra
from project import command, commit, dvc


@pytest.mark.slow
def test_a_nightly_run_in_a_clone_pushes_its_results(copy, tmp_path):
    """It pulls existing results, trains what is new, and pushes models and experiment; no other folder is changed."""
    dvc(copy, "remote", "add", "--default", "store", str(tmp_path / "store"))
    commit(copy)
    dvc(copy, "push", "--run-cache")
    origin = tmp_path / "origin.git"
    command(copy, "git", "clone", "--quiet", "--bare", str(copy), str(origin))
    command(copy, "git", "remote", "add", "origin", str(origin))
    before = (copy / "metrics/planar-4-0.json").read_bytes()
    orchestra = Orchestra(with_infra(copy), webhook="")
    with orchestra.serving(origin) as worker_folder:
        run = orchestra.run("reproduce/nightly", set_params=["variants.planar-4.posterior.num_transforms=4"])
        assert run["state"]["type"] == "COMPLETED", orchestra.log(run["id"])
        states = orchestra.states(run["id"])
        again = orchestra.run("reproduce/on-demand", targets=["train@vae-0"], pull=True)
        assert again["state"]["type"] == "COMPLETED", orchestra.log(again["id"])
        assert orchestra.states(again["id"])["prepare"] == "Completed"  # pulled, because a clone has an empty cache
        assert not list(worker_folder.iterdir())
    assert {states[name] for name in ("train@planar-4-0", "evaluate@planar-4-0", "report")} == {"Completed"}
    assert {states[name] for name in ("prepare", "train@vae-0")} == {"Unchanged"}
    assert (copy / "metrics/planar-4-0.json").read_bytes() == before
    name = time.strftime("nightly-%Y-%m-%d")
    dvc(copy, "exp", "pull", "origin", name)
    dvc(copy, "exp", "apply", name)
    assert (copy / "metrics/planar-4-0.json").read_bytes() != before
    assert (copy / "models/planar-4-0/model.safetensors").is_file()
