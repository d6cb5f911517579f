"""Values of params.yaml that hold for one run, and the way back."""

import pytest

from flowvae.errors import InputError
from pipeline.overrides import JOURNAL, overridden, wrong_params
from pipeline.params import load_params
from pipeline.paths import PARAMS


@pytest.fixture
def here(files, monkeypatch):
    """In a project's folder."""
    monkeypatch.chdir(files)
    return files


def test_they_hold_inside_and_the_file_comes_back_to_the_letter(here):
    before = PARAMS.read_bytes()
    with overridden(["training.epochs=7", "+variants.new={flow: none, num_transforms: 0}"]):
        params = load_params(PARAMS)
        assert params.training.epochs == 7
        assert "new" in params.variants
    assert PARAMS.read_bytes() == before
    assert not JOURNAL.exists()


def test_without_any_the_file_is_never_touched(here):
    before = PARAMS.read_bytes()
    with overridden([]):
        assert PARAMS.read_bytes() == before


def test_after_a_kill_the_next_run_takes_them_back(here):
    before = PARAMS.read_bytes()
    killed = overridden(["training.epochs=7"])
    killed.__enter__()  # and never leaves
    assert load_params(PARAMS).training.epochs == 7
    with overridden([]):
        assert PARAMS.read_bytes() == before


def test_what_somebody_has_edited_since_is_kept(here):
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
def test_a_mistake_is_one_line_and_changes_nothing(here, override, message):
    before = PARAMS.read_bytes()
    with pytest.raises(InputError) as caught, overridden([override]):
        pass
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1
    assert PARAMS.read_bytes() == before
    assert not JOURNAL.exists()


def test_what_dvc_says_in_its_own_words_is_said_in_ours(here):
    assert wrong_params() == []
    PARAMS.write_text(PARAMS.read_text().replace("\nseeds:", "\nseed:"))
    assert wrong_params() == [
        "params.yaml: seeds: missing key; add it",
        "params.yaml: seed: unknown key; remove it or mend its spelling",
    ]
