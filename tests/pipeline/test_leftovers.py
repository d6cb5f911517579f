"""Outputs of runs that params.yaml no longer declares are set aside, and come back."""

from project import RUNS, dvc, edit_params, stages_run

from pipeline import paths
from pipeline.leftovers import OF_RUNS, OF_STUDIES


def files_of(project, *words):
    """All files of the folders of results, and of those that were set aside, whose paths contain one of the words."""
    folders = [*OF_RUNS, *OF_STUDIES, paths.UNUSED]
    names = {path.relative_to(project).as_posix() for folder in folders for path in (project / folder).rglob("*.*")}
    return {name for name in names if any(word in name for word in words)}


def contents(project, names):
    return {name: (project / name).read_bytes() for name in names}


def test_a_variant_and_a_study_that_are_gone_come_back_without_training(copy):
    before = contents(copy, files_of(copy, "planar-4-0", "stability"))
    assert len(before) >= 10
    params = (copy / "params.yaml").read_text()

    def without(params):
        del params["variants"]["planar-4"], params["studies"]["stability"]
        params["interpolation"]["right"] = "vae"

    edit_params(copy, without)
    ran = dvc(copy, "repro")
    assert stages_run(ran) == {"interpolate", "report"}
    (line,) = (line for line in (ran.stdout + ran.stderr).splitlines() if "set aside" in line)
    assert line == "fetch: set aside in unused/, because params.yaml does not declare them: planar-4-0, stability"
    assert files_of(copy, "planar-4-0", "stability") == {f"unused/{name}" for name in before}
    assert {path.name for path in (copy / "models").iterdir() if path.is_dir()} == set(RUNS) - {"planar-4-0"}
    (copy / "params.yaml").write_text(params)
    ran = dvc(copy, "repro")
    assert stages_run(ran) == {"interpolate", "report"}
    assert "fetch: brought back: planar-4-0, stability" in (ran.stdout + ran.stderr).splitlines()
    assert contents(copy, before) == before
    assert files_of(copy, "unused") == set()


def test_what_is_brought_back_is_trained_again_if_its_params_have_changed(copy):
    def edit(params):
        params["seeds"] = [0, 1]
        params["variants"] = {"vae": params["variants"]["vae"], "planar-4": params["variants"]["planar-4"]}
        params["interpolation"]["right"] = "vae"

    stale = copy / "unused/models/planar-4-1"
    stale.mkdir(parents=True)
    (stale / "config.json").write_text("of an older version")
    edit_params(copy, edit)
    ran = dvc(copy, "repro", "train@planar-4-1")
    assert "train@planar-4-1" in stages_run(ran) and not stale.exists()
    assert (copy / "models/planar-4-1/model.safetensors").is_file()
    assert (copy / "models/planar-4-1/config.json").read_text() != "of an older version"


def test_a_users_own_files_stay(copy):
    """Hidden files, and files with other endings."""
    mine = {copy / "metrics/notes.txt", copy / "curves/.keep", copy / "models/readme.md"}
    for path in mine:
        path.write_text("mine")
    dvc(copy, "repro", "fetch")
    assert all(path.read_text() == "mine" for path in mine)
