"""Values of params.yaml that hold for one run."""

import pytest

from flowvae.errors import InputError
from pipeline.params.reading import load_params
from pipeline.paths import PARAMS
from pipeline.workflow.overrides import JOURNAL, overridden, params_problems


@pytest.fixture
def project(files, monkeypatch):
    """The working folder."""
    monkeypatch.chdir(files)
    return files


def test_they_hold_inside_the_block_and_the_file_is_restored_exactly(project):
    before = PARAMS.read_bytes()
    with overridden(["training.epochs=7", "+variants.new={posterior: {flow: none}, prior: {flow: none}}"]):
        params = load_params(PARAMS)
        assert params.training.epochs == 7
        assert "new" in params.variants
    assert PARAMS.read_bytes() == before
    assert not JOURNAL.exists()


def test_without_overrides_the_file_is_not_changed(project):
    before = PARAMS.read_bytes()
    with overridden([]):
        assert PARAMS.read_bytes() == before


def test_after_a_kill_the_next_run_restores_the_file(project):
    before = PARAMS.read_bytes()
    killed = overridden(["training.epochs=7"])
    killed.__enter__()  # and never __exit__
    assert load_params(PARAMS).training.epochs == 7
    with overridden([]):
        assert PARAMS.read_bytes() == before


def test_later_edits_are_kept(project):
    killed = overridden(["training.epochs=7"])
    killed.__enter__()
    edited = PARAMS.read_text() + "\n# mine\n"
    PARAMS.write_text(edited)
    with overridden([]):
        assert PARAMS.read_text() == edited


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
    before = PARAMS.read_bytes()
    with pytest.raises(InputError) as caught, overridden([override]):
        pass
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1
    assert PARAMS.read_bytes() == before
    assert not JOURNAL.exists()


def test_problems_of_params_that_dvc_words_differently(project):
    assert params_problems() == []
    PARAMS.write_text(PARAMS.read_text().replace("\nseeds:", "\nseed:"))
    assert params_problems() == [
        "params.yaml: seeds: missing key; add it",
        "params.yaml: seed: unknown key; remove it or fix the typo",
    ]
