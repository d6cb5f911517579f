"""Nights in clones: no night trains again what an earlier one pushed, whatever else failed or was committed."""

import json
import time
from datetime import datetime, timezone

import pytest
from project import (
    TRAINED,
    add_stage,
    command,
    commit,
    dvc,
    edit_params,
    planar,
    ran_in,
    unshared,
    workflow,
)

BROKEN = """
  broken:
    cmd: test -e fixed && touch broken.txt
    outs: [broken.txt]
"""
NEW = {"train@planar-1-0", "evaluate@planar-1-0"}


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory):
    """PREFECT_HOME without a server; it is shared, because creating its database takes a while."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def origin(copy, tmp_path):
    """A repository with a new variant, with a stage that fails, and with a remote of DVC's that is empty."""
    dvc(copy, "remote", "add", "--default", "store", str(tmp_path / "store"))
    add_stage(copy, BROKEN)
    edit_params(copy, lambda params: params["variants"].update({"planar-1": unshared(planar(num_transforms=1))}))
    commit(copy)
    command(copy, "git", "clone", "--quiet", "--bare", str(copy), str(tmp_path / "origin.git"))
    command(copy, "git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    return tmp_path / "origin.git"


def clone_of(origin, name):
    command(origin.parent, "git", "clone", "--quiet", str(origin), name)
    return origin.parent / name


@pytest.mark.slow
def test_later_nights_run_only_what_no_night_has_run(copy, origin, prefect_home):
    """A stage fails every night. The results of the others are kept, and arrive whole in a third clone."""
    night = ("--pull", "--push", "--experiment", "night-%Y-%m-%d")
    first = clone_of(origin, "first")
    ran = workflow(first, prefect_home, *night)
    assert ran.returncode == 1
    (problem,) = (line for line in ran.stderr.splitlines() if line.startswith("workflow: "))
    assert problem.startswith("workflow: broken: dvc repro --single-item broken failed")
    assert ran_in(ran) >= {"fetch", "prepare", "broken", "report"} | TRAINED | NEW

    second = workflow(clone_of(origin, "second"), prefect_home, *night)
    assert ran_in(second) == {"fetch", "broken"}, second.stdout + second.stderr
    assert second.returncode == 1

    third = clone_of(origin, "third")
    name = datetime.now(timezone.utc).strftime("night-%Y-%m-%d")
    dvc(third, "exp", "pull", "origin", name)
    applied = dvc(third, "exp", "apply", name, check=False)  # which complains of the output of the failed stage
    assert applied.stderr.splitlines()[1:3] == ["ERROR: Checkout failed for following targets:", "broken.txt"]
    assert set(json.loads(dvc(third, "status", "--json").stdout)) <= {"fetch", "broken"}
    for file in ("metrics/planar-1-0.json", "curves/planar-1-0.csv", "models/planar-1-0/model.safetensors"):
        assert (third / file).read_bytes() == (first / file).read_bytes()

    edit_params(copy, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=4))
    commit(copy)
    command(copy, "git", "push", "--quiet", "origin", "main")
    fourth = workflow(clone_of(origin, "fourth"), prefect_home, *night)
    changed = {"train@planar-4-0", "evaluate@planar-4-0", "interpolate", "report"}
    assert ran_in(fourth) == {"fetch", "broken"} | changed, fourth.stdout + fourth.stderr


@pytest.mark.slow
def test_a_clone_pulls_existing_results_and_pushes_those_of_an_override(copy, prefect_home, tmp_path):
    dvc(copy, "remote", "add", "--default", "store", str(tmp_path / "store"))
    commit(copy)
    dvc(copy, "push")
    origin, clone = str(tmp_path / "origin.git"), tmp_path / "clone"
    command(copy, "git", "clone", "--quiet", "--bare", str(copy), origin)
    command(copy, "git", "remote", "add", "origin", origin)
    command(copy, "git", "clone", "--quiet", origin, str(clone))
    override = ("-S", "variants.planar-4.posterior.num_transforms=4")
    ran = workflow(clone, prefect_home, "--pull", "--push", "--experiment", "night-%Y", *override)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran_in(ran) == {"fetch", "train@planar-4-0", "evaluate@planar-4-0", "interpolate", "report"}
    name = datetime.now(timezone.utc).strftime("night-%Y")
    dvc(copy, "exp", "pull", "origin", name)
    dvc(copy, "exp", "apply", name)
    assert set(json.loads(dvc(copy, "status", "--json").stdout)) <= {"fetch"}
    (measured,) = clone.glob(".dvc/tmp/overrides/*/metrics/planar-4-0.json")
    assert (copy / "metrics/planar-4-0.json").read_bytes() == measured.read_bytes()


@pytest.mark.slow
def test_a_failing_push_is_a_problem_of_one_line_and_the_stages_run(copy, prefect_home, tmp_path):
    (tmp_path / "file").touch()
    dvc(copy, "remote", "add", "--default", "store", str(tmp_path / "file/store"))
    edit_params(copy, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=4))
    started = time.time()
    ran = workflow(copy, prefect_home, "--push")
    assert ran.returncode == 1
    stages = {"fetch", "train@planar-4-0", "evaluate@planar-4-0", "report"}
    assert ran_in(ran) == stages
    assert (copy / "reports/index.html").stat().st_mtime > started
    problems = [line for line in ran.stderr.splitlines() if line.startswith("workflow: ")]
    assert {line.split()[3] for line in problems} == stages, problems
    assert len(problems) == len(stages) and all("Not a directory" in line for line in problems)


@pytest.mark.slow
def test_without_a_remote_nothing_runs(copy, prefect_home):
    ran = workflow(copy, prefect_home, "--pull")
    (problem,) = (line for line in ran.stderr.splitlines() if line.startswith("workflow: "))
    assert ran.returncode == 1 and "dvc remote add --default" in problem and ran_in(ran) == set()
