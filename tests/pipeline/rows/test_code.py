"""The hash of the code that a row depends on."""

import pytest
from examples import FLOW_SETTINGS, tiny_config

from flowvae.model.flows import FLOWS
from pipeline.fitting import TRAINING_CODE
from pipeline.rows.code import FITTING, ROOT, file_of, hash_of_source, imported, is_listed, own_modules, reached

SOURCE = '''
"""A module."""

import torch


def double(x, times=2):
    """Return twice x."""
    # a comment
    return {"x": [times * x, 0]}
'''


def modules(family="none", **changes):
    """The modules that a model with a flow in its posterior depends on."""
    reachable = reached({FITTING, *own_modules(tiny_config(family, **changes))})
    return {name for name in reachable if is_listed(name, TRAINING_CODE)}


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("# a comment", "# another one, and a line:\n"),
        SOURCE.replace("Return twice x.", "Twice x.").replace('"""A module."""\n', ""),
        SOURCE.replace("x, times=2", "\n    x,\n    times=2,\n").replace('"x"', "'x'"),
        SOURCE.replace("return ", "'a string without effect'\n    return "),
        SOURCE.replace("times * x", "(times * x)"),
    ],
)
def test_comments_docstrings_and_formatting_do_not_change_it(other):
    assert other != SOURCE
    assert hash_of_source(other) == hash_of_source(SOURCE)


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("times=2", "times=3"),
        SOURCE.replace("times * x", "times + x"),
        SOURCE.replace("times * x, 0", "times * x, 0.0"),
        SOURCE.replace("times=2", "times='2'"),
        SOURCE.replace("import torch", "import numpy as torch"),
        SOURCE + "double = None\n",
    ],
)
def test_anything_else_changes_it(other):
    assert hash_of_source(other) != hash_of_source(SOURCE)


def test_of_a_table_only_functions_and_classes_count():
    same = SOURCE.replace("import torch", "import torch\nfrom here import more\nTABLE = {1: more}")
    assert hash_of_source(same, only_definitions=True) == hash_of_source(SOURCE, only_definitions=True)
    assert hash_of_source(same) != hash_of_source(SOURCE)


@pytest.mark.parametrize("family", FLOWS)
def test_a_row_depends_on_the_family_that_it_has_and_on_no_other(family):
    own = {name for name in modules(family) if name.rpartition(".")[0] == "flowvae.model.flows"}
    assert {name.rpartition(".")[2] for name in own} & set(FLOWS) - {"none"} == {family} - {"none"}
    assert f"flowvae.model.flows.{FLOW_SETTINGS and family}" in modules(prior={"flow": family} | first(family))


def first(family):
    """Settings of a family in a prior, if it can be in one; else those of no flow."""
    settings = next((each for each in FLOW_SETTINGS[family] if not each.get("context", each.get("amortised"))), None)
    if settings is None or family in ("planar", "sylvester"):
        pytest.skip("has no inverse")
    return settings | ({"map_shape": [2, 1, 1]} if "map_shape" in settings else {})


def test_a_row_depends_on_all_listed_code_but_entries_of_tables():
    """What is listed and left out is in a folder of entries, serves another kind of latents, or is for Ray."""
    listed = {file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for part in TRAINING_CODE
              for file in ([ROOT / part] if part.endswith(".py") else (ROOT / part).rglob("*.py"))}  # fmt: skip
    left_out = {name.removesuffix(".__init__") for name in listed} - modules()
    entries = ("flowvae.model.flows.", "flowvae.model.networks.", "flowvae.model.likelihoods.", "pipeline.distributed.")
    others = {name for name in left_out if not name.startswith(entries)}
    # Packages whose __init__ says nothing, and training on images in any form, which calls the same loop.
    assert others <= {"flowvae.model", "flowvae.data", "flowvae.training", "flowvae.training.fitting"}


def test_modules_are_found_by_every_form_of_import():
    assert "flowvae.training.loop" in imported("pipeline.fitting")
    assert imported("flowvae.model.flows") == ()
    assert file_of("flowvae.model.flows").name == "__init__.py"
