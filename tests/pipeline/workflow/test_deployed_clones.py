"""Deployments whose runs each work in a clone: infra/prefect/prefect.yaml on a real server with a real worker."""

from datetime import datetime, timedelta, timezone

import pytest
from orchestra import Orchestra, with_infra
from project import command, commit, dvc


@pytest.mark.slow
def test_a_nightly_run_in_a_clone_pushes_its_results(copy, tmp_path):
    """It pulls existing results, trains what is new, and pushes models and experiment; no other folder is changed.

    The experiment has the date of the schedule, in UTC, although the worker is in Los Angeles and starts it late. A run
    on demand then trains nothing either.
    """
    dvc(copy, "remote", "add", "--default", "store", str(tmp_path / "store"))
    commit(copy)
    dvc(copy, "push")
    origin = tmp_path / "origin.git"
    command(copy, "git", "clone", "--quiet", "--bare", str(copy), str(origin))
    command(copy, "git", "remote", "add", "origin", str(origin))
    before = (copy / "metrics/planar-4-0.json").read_bytes()
    orchestra = Orchestra(with_infra(copy), webhook="")
    orchestra.settings["TZ"] = "America/Los_Angeles"
    two_o_clock = (datetime.now(timezone.utc) - timedelta(days=1)).replace(hour=2, minute=0)
    override = ["variants.planar-4.posterior.num_transforms=4"]
    with orchestra.serving(origin) as worker_folder:
        run = orchestra.ended(orchestra.trigger("reproduce/nightly", scheduled=two_o_clock, set_params=override))
        assert run["state"]["type"] == "COMPLETED", orchestra.log(run["id"])
        states = orchestra.states(run["id"])
        again = orchestra.run("reproduce/on-demand", targets=["evaluate@planar-4-0"], set_params=override)
        assert again["state"]["type"] == "COMPLETED", orchestra.log(again["id"])
        assert orchestra.states(again["id"])["prepare"] == "Unchanged"
        log = orchestra.log(again["id"])
        assert "pulled the results of an earlier run of train@planar-4-0" in log
        assert "Running stage 'train" not in log
        assert not list(worker_folder.iterdir())
    assert {states[name] for name in ("train@planar-4-0", "evaluate@planar-4-0", "report")} == {"Completed"}
    assert {states[name] for name in ("prepare", "train@vae-0")} == {"Unchanged"}
    assert (copy / "metrics/planar-4-0.json").read_bytes() == before
    name = two_o_clock.strftime("nightly-%Y-%m-%d")
    dvc(copy, "exp", "pull", "origin", name)
    dvc(copy, "exp", "apply", name)
    assert (copy / "metrics/planar-4-0.json").read_bytes() != before
    assert (copy / "models/planar-4-0/model.safetensors").is_file()
