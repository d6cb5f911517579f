"""Values of params.yaml that hold for one run, which works in a copy of the project."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from project import command, commit, contents, copy_project, dvc, edit_params, stages_run

from flowvae.errors import InputError
from pipeline.params.reading import load_params
from pipeline.paths import PARAMS
from pipeline.workflow.overrides import COPIES, overridden, params_problems

PLANAR = ["variants.planar-4.posterior.num_transforms=4"]
CHECKOUT = ("checkout", "--force", "--allow-missing")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The working folder: a project in which nothing has run."""
    folder = copy_project(tmp_path / "project", git=True)
    monkeypatch.chdir(folder)
    return folder


def git(folder, *arguments):
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout


def set_posterior(project, variant, **settings):
    edit_params(project, lambda params: params["variants"][variant]["posterior"].update(settings))


def test_they_hold_in_a_copy_and_no_file_of_the_user_is_touched(project):
    (project / "pipeline/new.py").write_text("# not yet in git\n")
    (project / "pipeline/device.py").write_text("# edited\n")
    (project / "pipeline/scores.py").unlink()
    before, status = contents(project), git(project, "status", "--porcelain")
    with overridden(["training.epochs=7", "+variants.new={posterior: {flow: none}, prior: {flow: none}}"]) as copy:
        assert Path.cwd() == project / copy and copy.parent == COPIES
        params = load_params(PARAMS)
        assert params.training.epochs == 7 and "new" in params.variants
        assert Path("pipeline/new.py").is_file() and not Path("pipeline/scores.py").exists()
        assert Path("pipeline/device.py").read_text() == "# edited\n"
        Path("curves").mkdir()
        Path("curves/half-written.csv").write_text("by a stage that was killed")
    assert Path.cwd() == project
    assert contents(project) == before
    assert git(project, "status", "--porcelain") == status


def test_the_next_run_with_them_works_in_the_same_copy_with_the_files_as_they_are_then(project):
    with overridden(["training.epochs=7"]) as first:
        Path("flowvae/kept-by-nothing.py").write_text("")
    (project / "pipeline/device.py").unlink()
    edit_params(project, lambda params: params["training"].update(batch_size=7))
    commit(project)
    with overridden(["training.epochs=7"]) as second:
        assert second == first
        assert not Path("pipeline/device.py").exists() and not Path("flowvae/kept-by-nothing.py").exists()
        assert load_params(PARAMS).training.batch_size == 7
        assert git(Path.cwd(), "rev-parse", "HEAD") == git(project, "rev-parse", "HEAD")
        assert set(git(Path.cwd(), "status", "--porcelain").split()) == {"M", "params.yaml"}
    with overridden(["training.epochs=8"]) as third:
        assert third != first


def test_a_project_that_was_moved_or_copied_or_whose_copy_was_removed(project, monkeypatch):
    def top_after_a_run(folder):
        monkeypatch.chdir(folder)
        with overridden(["training.epochs=7"]) as copy:
            assert git(Path.cwd(), "rev-parse", "--git-common-dir").strip() == str(folder / ".git")
            assert git(Path.cwd(), "rev-parse", "--show-toplevel").strip() == str(folder / copy)
            Path("curves").mkdir(exist_ok=True)
        return folder / copy

    top_after_a_run(project)
    moved = project.rename(project.with_name("a project elsewhere"))
    top_after_a_run(moved)
    copied = shutil.copytree(moved, moved.with_name("copied"), symlinks=True)
    for folder in (copied, moved, copied):
        index = git(folder, "ls-files", "--stage")
        copy = top_after_a_run(folder)
        assert (copy / "curves").is_dir()
        assert git(folder, "ls-files", "--stage") == index
    (copy / ".git").unlink()
    top_after_a_run(copied)
    shutil.rmtree(copy)
    top_after_a_run(copied)
    assert git(copied, "ls-files", "--stage") == index


@pytest.mark.parametrize("git", [True, False])
def test_stages_that_ran_in_the_copy_keep_their_results_and_others_get_those_of_the_project(git, copy, monkeypatch):
    """Nothing that is finished, here or there, is done again."""
    if not git:
        shutil.rmtree(copy / ".git")
        dvc(copy, "config", "--local", "core.no_scm", "true")
    monkeypatch.chdir(copy)

    def run_with_overrides():
        with overridden(PLANAR) as folder:
            dvc(copy / folder, *CHECKOUT)
            return stages_run(dvc(copy / folder, "repro"))

    before = contents(copy)
    changed = {"train@planar-4-0", "evaluate@planar-4-0", "interpolate", "report"}
    assert run_with_overrides() == changed
    assert run_with_overrides() == set()
    assert contents(copy) == before
    set_posterior(copy, "real-nvp-2", num_transforms=2)
    assert stages_run(dvc(copy, "repro")) >= {"train@real-nvp-2-0", "report"}
    assert run_with_overrides() == {"interpolate", "report"}
    (params,) = (copy / COPIES).glob("*/params.yaml")
    metrics = "metrics/real-nvp-2-0.json", "metrics/planar-4-0.json"
    assert [(params.parent / name).read_bytes() == (copy / name).read_bytes() for name in metrics] == [True, False]


def test_data_remotes_and_checkpoints_are_those_of_the_project(project, monkeypatch):
    dvc(project, "remote", "add", "--default", "store", "../store")
    monkeypatch.setenv("FLOWVAE_DATA_ROOT", "my/data")
    for folder in ("images", "data/raw", "checkpoints"):
        (project / folder).mkdir(parents=True)
        (project / folder / "mine").write_text("x")
    for _ in range(2):
        with overridden(["training.epochs=7"]):
            assert os.environ["FLOWVAE_DATA_ROOT"] == str(project / "my/data")
            for folder in ("images", "data/raw", "checkpoints"):
                assert Path(folder, "mine").samefile(project / folder / "mine")
            assert dvc(Path.cwd(), "remote", "list").stdout.split()[1] == str(project.parent / "store")
            assert dvc(Path.cwd(), "cache", "dir").stdout.strip() == str(project / ".dvc/cache")
            assert os.stat(".dvc/config.local").st_mode & 0o077 == 0
    assert os.environ["FLOWVAE_DATA_ROOT"] == "my/data"


def test_images_that_git_tracks_are_the_same_with_the_same_times(project):
    (project / "images").mkdir()
    (project / "images/a.png").write_text("x")
    os.utime(project / "images/a.png", (1, 1))
    command(project, "git", "add", "--force", "images")  # which is in .gitignore
    commit(project)
    with overridden(["training.epochs=7"]):
        assert not Path("images").is_symlink()
        assert os.stat("images/a.png").st_mtime == 1


def test_images_beside_the_project(project):
    (project.parent / "images").mkdir()
    with overridden(["data.folder.path=../images"]):
        assert Path("../images").samefile(project.parent / "images")
    (project.parents[1] / "images").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=r"../../images: with --set-param, expected an absolute path or one in"):
        overridden(["data.folder.path=../../images"]).__enter__()
    (project / "data").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=r"data.folder.path: data: with --set-param, expected a folder with nothing"):
        overridden(["data.folder.path=data"]).__enter__()


def test_without_overrides_there_is_no_copy(project):
    with overridden([]) as copy:
        assert copy is None and Path.cwd() == project
    assert not (project / COPIES).exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=2", "--set-param training.epoch=2: Could not override 'training.epoch'; expected KEY=VALUE"),
        ("training.epochs=two", "--set-param training.epochs=two: training.epochs: expected a valid integer, got"),
        ("training.epochs", "--set-param training.epochs: Error parsing override 'training.epochs'"),
        ("interpolation.left=x", "--set-param interpolation.left=x: interpolation.left: expected one of the variants"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(project, override, message):
    before = contents(project)
    with pytest.raises(InputError) as caught, overridden([override]):
        pass
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1
    assert contents(project) == before
    assert not (project / COPIES).exists()


def test_problems_of_params_that_dvc_words_differently(project):
    assert params_problems() == []
    PARAMS.write_text(PARAMS.read_text().replace("\nseeds:", "\nseed:"))
    assert params_problems() == [
        "params.yaml: seeds: missing key; add it",
        "params.yaml: seed: unknown key; remove it or fix the typo",
    ]
