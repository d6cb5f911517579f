"""The trials that params.yaml declares, and the names under which their results are kept."""

import pytest
import torch
from project import ROOT, edit_params, shrink

from flowvae.data.arrays import Metadata, read_metadata
from flowvae.errors import InputError
from flowvae.training.checkpoint import NoCheckpoints
from pipeline.params.reading import load_params
from pipeline.params.schema import SweepConfig
from pipeline.study.points import Point, check_sweep, grid, resolve
from pipeline.study.trials import SPEED, columns, describe, run_trial, trial_at

REAL_NVP = {
    "flow": "real_nvp",
    "hidden_features": [4],
    "context": True,
    "log_scale_bound": 2.0,
    "normalization": "none",
    "weight_norm": False,
    "net_batch_norm": False,
}


@pytest.fixture
def edited(tmp_path):
    """Params of the tiny experiment after an edit of its sweep."""

    def load(edit=lambda sweep: None):
        (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        edit_params(tmp_path, shrink)
        edit_params(tmp_path, lambda params: edit(params["sweep"]["budgets"]["tiny"]))
        return load_params(tmp_path / "params.yaml")

    return load


@pytest.fixture
def trial(reproduced):
    """The trial at a point of the tiny sweep."""
    folder = reproduced.folder / "data/prepared"
    return lambda params, point: trial_at(params, point, read_metadata(folder), folder)


def test_a_grid_is_every_combination(edited):
    params = edited(lambda tiny: tiny.update(seeds=[0, 7], over={"training.learning_rate": [0.1, 0.2]}))
    points = grid(params)
    assert len(points) == 3 * 2 * 2
    assert points[0].columns() == {"family": "none", "num_transforms": 0, "seed": 0, "training.learning_rate": 0.1}
    assert len({str(point.columns()) for point in points}) == len(points)
    assert columns(params)[:4] == ["family", "num_transforms", "seed", "training.learning_rate"]


def test_what_a_trial_is_made_of(edited):
    params = edited(
        lambda tiny: tiny.update(settings={"training": {"epochs": 9}, "model": {"encoder": {"channels": [4, 4]}}})
    )
    sections = resolve(params, Point("planar", 3, 0, {"training.learning_rate": 0.5, "flow.amortised": False}))
    assert sections["training"].epochs == 9
    assert sections["training"].learning_rate == 0.5
    assert sections["training"].batch_size == params.training.batch_size
    assert sections["model"].encoder.channels == (4, 4)
    assert sections["flow"].num_transforms == 3
    assert sections["flow"].amortised is False


def test_the_name_of_a_result_depends_on_all_that_the_result_does(edited, trial):
    params, point = edited(), Point("planar", 3, 0, {})
    name = trial(params, point).trial_id
    assert trial(edited(), point).trial_id == name
    others = [
        trial(params, Point("planar", 1, 0, {})),
        trial(params, Point("planar", 3, 1, {})),
        trial(params, Point("planar", 3, 0, {"training.learning_rate": 0.5})),
        trial(params, Point("planar", 3, 0, {"evaluation.num_elbo_samples": 3})),
        trial(edited(lambda tiny: tiny.update(settings={"training": {"epochs": 9}})), point),
    ]
    names = {other.trial_id for other in others} | {name}
    assert len(names) == len(others) + 1


def test_it_does_not_depend_on_what_is_compared_with(edited, trial):
    params = edited(lambda tiny: tiny.update(seeds=[0, 1, 2]))
    assert trial(params, Point("planar", 3, 0, {})).trial_id == trial(edited(), Point("planar", 3, 0, {})).trial_id


def test_a_trial_scores_a_model(edited, trial):
    params = edited()
    one = trial(params, Point("planar", 1, 0, {}))
    row = run_trial(one, one.task.prepared, torch.device("cpu"), NoCheckpoints(), lambda record: None)
    assert set(row) == {*columns(params), SPEED}
    assert row["negative_elbo_nats"] == pytest.approx(row["reconstruction_nats"] + row["kl_nats"], abs=1e-3)
    assert (row["status"], row["reason"], row["epochs"]) == ("finished", "", 1)


@pytest.mark.parametrize(
    ("settings", "said"), [({"min_steps": 0}, "1 epoch"), ({"min_steps": 41, "batch_size": 100}, "5 epochs")]
)
def test_a_figure_says_how_long_its_trials_were(edited, settings, said):
    """`min_steps` may make them longer than `epochs`."""
    params = edited(lambda tiny: tiny.update(settings={"training": {"epochs": 1} | settings}))
    data = Metadata.model_construct(dataset="MNIST", binarization="static", counts={"train": 1000})
    assert describe(params, data) == (
        f"Sweep 'tiny': MNIST, static binarization\n{said} of 1,000 images, seed 0 (one seed, so no intervals)"
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"settings": {"training": {"epoch": 1}}}, "training.epoch: unknown key"),
        ({"settings": {"training": {"epochs": 0}}}, "training.epochs: expected greater than 0"),
        ({"settings": {"data": {"seed": 1}}}, "settings: expected keys of model, flow, training, evaluation, got data"),
        ({"over": {"training.learning_rat": [1.0]}}, "training.learning_rat: unknown key"),
        (
            {"over": {"latent_shape": [[1]]}},
            "over: expected keys of model, flow, training, evaluation, got latent_shape",
        ),
        ({"over": {"training.learning_rate": {"low": 0.1, "high": 0.2, "log": True}}}, "a grid needs a list of values"),
        (
            {"settings": {"model": {"likelihood": {"name": "discretized_logistic"}}}},
            "bernoulli where data.binarization is",
        ),
        ({"settings": {"model": {"encoder": {"name": "residual"}}}}, "model.encoder.num_blocks: missing key"),
        (
            {
                "settings": {"model": {"latent_shape": [1]}},
                "families": {"deep": {"flow": REAL_NVP, "num_transforms": [4, 2]}},
            },
            "deep: expected a latent of at least 2 dimensions for real_nvp",
        ),
        ({"families": {"planet": {"flow": {"flow": "planet"}, "num_transforms": [1]}}}, "flow.flow: expected one of"),
        ({"families": {"none": {"flow": {"flow": "none"}, "num_transforms": [3]}}}, "flow.num_transforms: "),
    ],
)
def test_mistakes_are_named(edited, edit, message):
    problems = list(check_sweep(edited(lambda tiny: tiny.update(edit))))
    assert problems
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"search": {"name": "grit"}}, "search.name: expected one of 'grid', 'random', 'optuna', got 'grit'"),
        ({"search": {"name": "random", "num_trials": 0, "seed": 0}}, "search.num_trials: "),
        ({"families": {}}, "families: "),
        ({"seeds": []}, "seeds: "),
        ({"early_stopping": {"grace_epochs": 1, "reduction_factor": 1}}, "early_stopping.reduction_factor: "),
        ({"depths": [1]}, "depths: unknown key"),
    ],
)
def test_mistakes_of_the_schema_are_named(edited, edit, message):
    with pytest.raises(InputError) as error:
        edited(lambda tiny: tiny.update(edit))
    assert f"sweep.budgets.tiny.{message}" in str(error.value)


def test_a_budget_that_is_not_there(edited):
    params = edited()
    sweep = SweepConfig(budget="huge", budgets=params.sweep.budgets)
    (problem,) = check_sweep(params.model_copy(update={"sweep": sweep}))
    assert problem == "sweep.budget: expected one of tiny, got 'huge'"


@pytest.mark.parametrize(
    ("section", "budget", "deepest"),
    [("sweep", "short", 40), ("sweep", "full", 80), ("stability", "short", 80), ("stability", "full", 80)],
)
def test_the_budgets_that_ship_make_sense(section, budget, deepest):
    params = load_params(ROOT / "params.yaml")
    chosen = getattr(params, section).model_copy(update={"budget": budget})
    params = params.model_copy(update={"sweep": chosen})
    assert list(check_sweep(params)) == []
    assert max(point.num_transforms for point in grid(params)) == deepest
