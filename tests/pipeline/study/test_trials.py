"""The trials of the studies that params.yaml declares, and the names under which their results are stored."""

import pytest
import torch
from project import PLANAR, ROOT, TINY, edit_params, planar, real_nvp, shrink, with_posterior

from flowvae.data.arrays import read_metadata
from flowvae.errors import InputError
from flowvae.training.checkpoint import NoCheckpoints
from pipeline.params.reading import check_params, load_params, read_yaml
from pipeline.params.schema import VariantConfig
from pipeline.params.trees import overlay
from pipeline.study.points import Point, Study, study_problems
from pipeline.study.trials import THROUGHPUT, columns, run_trial, trial_at


@pytest.fixture
def edited(tmp_path):
    """Params of the tiny experiment after an edit of its study `depth`."""

    def load(**changes):
        (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        edit_params(tmp_path, shrink)
        edit_params(tmp_path, lambda params: params["studies"]["depth"].update(changes))
        return load_params(tmp_path / "params.yaml")

    return load


@pytest.fixture
def study(edited):
    """The study `depth` after an edit."""
    return lambda **changes: Study("depth", edited(**changes))


@pytest.fixture
def trial(reproduced):
    """The trial at a point of a study."""
    folder = reproduced.folder / "data/prepared"
    return lambda study, point: trial_at(study, point, read_metadata(folder), folder)


def test_a_grid_is_every_combination(study):
    changed = study(seeds=[0, 7], over={"training.learning_rate": [0.1, 0.2]})
    points = changed.grid()
    assert len(points) == 3 * 2 * 2
    assert points[0].columns() == {"family": "none", "num_transforms": 0, "seed": 0, "training.learning_rate": 0.1}
    assert len({str(point.columns()) for point in points}) == len(points)
    assert columns(changed)[:6] == ["family", "posterior", "prior", "num_transforms", "seed", "training.learning_rate"]


def test_the_order_of_a_grid_is_that_of_params_yaml(study):
    families = {"planar": planar(num_transforms=[3, 1]), "none": TINY["families"]["none"]}
    points = study(families=families).grid()
    assert [(point.family, point.num_transforms) for point in points] == [("planar", 3), ("planar", 1), ("none", 0)]


def test_a_family_is_one_variant_per_depth(edited):
    config = edited().studies["depth"]
    variants = edited().variants
    assert list(config.families["planar"]) == [1, 3]
    assert config.families["planar"][3] == VariantConfig.model_validate(planar(num_transforms=3))
    assert config.families["none"] == {0: variants["vae"]}


def test_the_settings_of_a_trial(study):
    changed = study(settings={"training": {"epochs": 9}, "model": {"encoder": {"channels": [4, 4]}}})
    sections = changed.sections(Point("planar", 3, 0, {"training.learning_rate": 0.5, "posterior.amortised": False}))
    assert sections.training.epochs == 9
    assert sections.training.learning_rate == 0.5
    assert sections.training.batch_size == changed.params.training.batch_size
    assert sections.model.encoder.channels == (4, 4)
    assert sections.evaluation == changed.params.evaluation
    assert sections.posterior.num_transforms == 3
    assert sections.posterior.amortised is False


def test_values_of_the_point_replace_the_settings_of_the_study(study):
    changed = study(settings={"training": {"epochs": 9, "weight_decay": 0.5}})
    sections = changed.sections(Point("none", 0, 0, {"training.epochs": 2}))
    assert (sections.training.epochs, sections.training.weight_decay) == (2, 0.5)


def test_the_name_of_a_result_depends_on_everything_that_the_result_does(study, trial):
    point = Point("planar", 3, 0, {})
    name = trial(study(), point).trial_id
    assert trial(study(), point).trial_id == name
    others = [
        trial(study(), Point("planar", 1, 0, {})),
        trial(study(), Point("planar", 3, 1, {})),
        trial(study(), Point("planar", 3, 0, {"training.learning_rate": 0.5})),
        trial(study(), Point("planar", 3, 0, {"evaluation.num_elbo_samples": 3})),
        trial(study(settings={"training": {"epochs": 9}}), point),
    ]
    names = {other.trial_id for other in others} | {name}
    assert len(names) == len(others) + 1


@pytest.mark.parametrize("part", ["TRAINING_CODE", "SCORING_CODE"])
def test_the_name_of_a_result_depends_on_the_code(study, trial, monkeypatch, part):
    one = trial(study(), Point("planar", 3, 0, {}))
    before = one.trial_id
    module = "pipeline.fitting" if part == "TRAINING_CODE" else "pipeline.study.trials"
    monkeypatch.setattr(f"{module}.{part}", ("pipeline/paths.py",))
    assert one.trial_id != before


def test_it_does_not_depend_on_the_other_trials_of_the_study(study, trial):
    point = Point("planar", 3, 0, {})
    other = study(seeds=[0, 1, 2], families={"planar": planar(num_transforms=[3, 8])})
    assert trial(other, point).trial_id == trial(study(), point).trial_id
    assert trial(Study("stability", study().params), Point("none", 1, 0, {})).trial_id != trial(study(), point).trial_id


def test_studies_with_the_same_trial_share_its_result(edited, trial):
    params = edited(families={"none": real_nvp(num_transforms=[2])})
    point = Point("none", 2, 0, {})
    assert trial(Study("depth", params), point).trial_id == trial(Study("stability", params), point).trial_id


def test_a_trial_scores_a_model(study, trial):
    one = trial(study(), Point("planar", 1, 0, {}))
    row = run_trial(one, one.spec.prepared, torch.device("cpu"), NoCheckpoints(), lambda record: None)
    assert set(row) == {*columns(study()), THROUGHPUT}
    assert THROUGHPUT not in columns(study())
    assert row["negative_elbo_nats"] == pytest.approx(row["reconstruction_nats"] + row["kl_nats"], abs=1e-3)
    assert (row["status"], row["reason"], row["epochs"]) == ("finished", "", 1)


def test_a_row_has_the_epochs_that_were_trained(study, trial):
    """`min_steps` may make them more than `epochs`: 4,000 images are 40 steps per epoch."""
    settings = {"training": {"epochs": 1, "min_steps": 41, "batch_size": 100}}
    one = trial(study(settings=settings), Point("none", 0, 0, {}))
    row = run_trial(one, one.spec.prepared, torch.device("cpu"), NoCheckpoints(), lambda record: None)
    assert row["epochs"] == 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"settings": {"training": {"epoch": 1}}}, "none with k = 0: training.epoch: unknown key"),
        ({"settings": {"training": {"epochs": 0}}}, "training.epochs: expected greater than 0"),
        ({"settings": {"training": 3}}, "training: expected a mapping (key: value), got 3"),
        (
            {"settings": {"data": {"seed": 1}}},
            "settings: expected keys of model, posterior, prior, training, evaluation, got",
        ),
        ({"settings": {"prior": {"num_transforms": 9}}}, "settings: prior.num_transforms is set by the families"),
        (
            {"settings": {"posterior": {"amortised": False}}},
            "none with k = 0: posterior.amortised: unknown key (flow none has ",
        ),
        ({"over": {"training.learning_rat": [1.0]}}, "training.learning_rat: unknown key"),
        ({"over": {"training.epochs": [1, "two"]}}, "training.epochs: expected a valid integer, got 'two'"),
        ({"over": {"posterior.num_transforms": [1, 2]}}, "over: posterior.num_transforms is set by the families"),
        (
            {"over": {"latent_shape": [[1]]}},
            "over: expected keys of model, posterior, prior, training, evaluation, got latent_shape",
        ),
        (
            {"over": {"training.learning_rate": {"low": 0.1, "high": 0.2, "log": True}}},
            "studies.depth.over.training.learning_rate: a grid needs a list of values",
        ),
        (
            {"settings": {"model": {"likelihood": {"name": "discretized_logistic"}}}},
            "bernoulli where data.binarization is",
        ),
        ({"settings": {"model": {"encoder": {"name": "residual"}}}}, "model.encoder.num_blocks: missing key"),
        (
            {
                "settings": {"model": {"latent_shape": [1]}},
                "families": {"deep": real_nvp(num_transforms=[4, 2])},
            },
            "studies.depth, deep: expected a latent of at least 2 dimensions for real_nvp",
        ),
    ],
)
def test_mistakes_are_named(edited, edit, message):
    problems = list(study_problems(edited(**edit)))
    assert any(message in problem for problem in problems), problems
    assert all(problem.startswith("studies.depth") for problem in problems)
    assert len({problem.partition(": ")[2] for problem in problems}) == len(problems)  # not once per trial


def test_all_studies_are_checked(edited):
    params = edited(settings={"training": {"epoch": 1}})
    bad = params.studies["depth"]
    params = params.model_copy(update={"studies": {"good": edited().studies["depth"], "one": bad, "two": bad}})
    assert [problem.partition(",")[0] for problem in study_problems(params)] == ["studies.one", "studies.two"]
    assert list(study_problems(params.model_copy(update={"studies": {}}))) == []


LISTED = "expected num_transforms to be a list of integers, with each depth once, got "


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"search": {"name": "grit"}}, "search.name: expected one of 'grid', 'random', 'optuna', got 'grit'"),
        ({"search": {"name": "random", "num_trials": 0, "seed": 0}}, "search.num_trials: expected greater than 0"),
        ({"search": {"name": "grid", "num_trials": 3}}, "search.num_trials: unknown key; remove it"),
        ({"search": {"name": "optuna", "seed": 0}}, "search.num_trials: missing key; add it"),
        ({"search": "grid"}, "search: expected a mapping"),
        ({"families": {}}, "families: expected at least 1 item"),
        ({"families": [PLANAR]}, "families: expected a mapping"),
        ({"seeds": []}, "seeds: expected at least 1 item"),
        ({"seeds": [0, 0]}, "seeds: expected each seed once"),
        ({"settings": None}, "settings: expected a mapping"),
        ({"over": {"training.epochs": 3}}, "over.training.epochs: expected a list, got 3"),
        ({"over": {"training.epochs": []}}, "over.training.epochs: expected at least 1 item"),
        ({"over": {"training.epochs": [1, 2, 1]}}, "over.training.epochs: expected each value once"),
        ({"over": {"training.weight_decay": {"low": 1.0, "high": 2.0}}}, "over.training.weight_decay.log: missing key"),
        (
            {"over": {"training.weight_decay": {"low": 0.2, "high": 0.1, "log": True}}},
            "over.training.weight_decay: expected low < high",
        ),
        (
            {"over": {"training.weight_decay": {"low": 0.0, "high": 0.1, "log": True}}},
            "over.training.weight_decay: expected low < high, and low > 0 on a logarithmic scale",
        ),
        ({"early_stopping": None}, "early_stopping: expected a mapping (key: value), got null"),
        ({"early_stopping": {"name": "median"}}, "early_stopping.name: expected one of 'none', 'asha', got 'median'"),
        ({"early_stopping": {"grace_epochs": 1, "reduction_factor": 2}}, "early_stopping.name: missing key"),
        ({"early_stopping": {"name": "none", "grace_epochs": 1}}, "early_stopping.grace_epochs: unknown key; remove"),
        (
            {"early_stopping": {"name": "asha", "grace_epochs": 1, "reduction_factor": 1}},
            "early_stopping.reduction_factor: expected greater than or equal to 2",
        ),
        ({"depths": [1]}, "depths: unknown key"),
        (
            {"families": {"planar": with_posterior(flow="planar", amortised=True)}},
            "families.planar.posterior.num_transforms: missing key",
        ),
        (
            {"families": {"both": {"posterior": PLANAR, "prior": PLANAR}}},
            "families.both: expected a list of num_transforms in the posterior or in the prior, got {",
        ),
        ({"families": {"planar": planar(num_transforms=[])}}, f"families.planar: {LISTED}{{"),
        (
            {"families": {"planar": planar(num_transforms=[1, 3, 1])}},
            f"families.planar: {LISTED}{{",
        ),
        (
            {"families": {"planar": planar(num_transforms=[1, "3"])}},
            f"families.planar: {LISTED}{{",
        ),
        (
            {"families": {"planar": planar(num_transforms=[1, 2.0])}},
            f"families.planar: {LISTED}{{",
        ),
        (
            {"families": {"planar": planar(num_transforms=[True])}},
            f"families.planar: {LISTED}{{",
        ),
        (
            {"families": {"planar": planar(num_transforms=[[1, 3]])}},
            f"families.planar: {LISTED}{{",
        ),
        (
            {"families": {"planar": planar(num_transforms=[None])}},
            f"families.planar: {LISTED}{{",
        ),
        ({"families": {"planar": 4}}, "families.planar: expected a mapping (key: value), got 4"),
        ({"families": {"planar": None}}, "families.planar: expected a mapping (key: value), got null"),
        ({"families": {"planar": {"posterior": PLANAR}}}, "families.planar.prior: missing key"),
        (
            {"families": {"planar": planar(num_transforms=[-1])}},
            "families.planar.posterior.num_transforms: expected greater",
        ),
        (
            {"families": {"planar": planar(num_transforms=[0])}},
            "families.planar.posterior.num_transforms: expected greater",
        ),
        (
            {"families": {"none": with_posterior(flow="none", num_transforms=[3])}},
            "families.none.posterior.num_transforms: expected 0",
        ),
        (
            {"families": {"planet": planar(flow="planet")}},
            "families.planet.posterior.flow: expected one of 'none', ",
        ),
        (
            {"families": {"planar": with_posterior(num_transforms=[1, 3])}},
            "families.planar.posterior.flow: missing key",
        ),
        (
            {"families": {"planar": planar(hidden_features=[8])}},
            "families.planar.posterior.hidden_features: unknown key (flow planar has flow, num_transforms, amortised)",
        ),
        (
            {"families": {"p": with_posterior(flow="planar", num_transforms=[1])}},
            "families.p.posterior.amortised: missing key",
        ),
        (
            {"families": {"planar": planar(amortised="yes")}},
            "families.planar.posterior.amortised: expected a valid boolean",
        ),
        (
            {"families": {"Planar 4": planar()}},
            "families.Planar 4: expected a name of at most 64 lowercase letters",
        ),
    ],
)
def test_mistakes_of_the_schema_are_one_line(edited, edit, message):
    """Also those that a family has at every depth."""
    with pytest.raises(InputError) as error:
        edited(**edit)
    (line,) = str(error.value).splitlines()
    assert f"params.yaml: studies.depth.{message}" in line


@pytest.mark.parametrize(
    ("studies", "message"),
    [
        (None, "studies: expected a mapping (key: value), got null"),
        ([TINY], "studies: expected a mapping"),
        ({"depth": None}, "studies.depth: expected a mapping"),
        ({"Depth": TINY}, "studies.Depth: expected a name of at most 64 lowercase letters, digits, - and _"),
        ({"depth/2": TINY}, "studies.depth/2: expected a name"),
    ],
)
def test_studies_are_a_mapping_of_names(studies, message):
    with pytest.raises(InputError) as error:
        check_params(read_yaml(ROOT / "params.yaml") | {"studies": studies}, "params.yaml")
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"params.yaml: {message}")


def test_a_study_that_is_not_declared(edited):
    edited().check_study("depth")
    with pytest.raises(InputError, match=r"^params\.yaml: studies: expected 'huge' among depth, stability$"):
        edited().check_study("huge")
    with pytest.raises(InputError, match=r"among none$"):
        edited().model_copy(update={"studies": {}}).check_study("depth")


@pytest.mark.parametrize(
    ("preset", "name", "deepest", "num_trials"),
    [
        (None, "depth", 40, 12),
        ("depth-full", "depth", 80, 36),
        ("stability-forty", "stability", 40, 25),
        ("stability-full", "stability", 80, 150),
    ],
)
def test_the_studies_that_ship_are_valid(preset, name, deepest, num_trials):
    content = read_yaml(ROOT / "params.yaml")
    if preset:
        content = overlay(content, read_yaml(ROOT / f"presets/{preset}.yaml"))
    params = check_params(content, ROOT / "params.yaml")
    assert list(study_problems(params)) == []
    points = Study(name, params).grid()
    assert max(point.num_transforms for point in points) == deepest
    assert len(points) == num_trials
