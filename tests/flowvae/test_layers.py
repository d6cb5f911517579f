"""The house rules that a reader of one file cannot see: who imports whom, and what is nowhere."""

import ast
import importlib
from pathlib import Path

import pytest

from flowvae.config import Config
from flowvae.flows import FLOWS

ROOT = Path(__file__).parents[2]
# Each line may import the lines above it, never itself or what is below.
ORDER = [
    ["errors", "config", "data.decoding", "files", "precision", "randomness", "transforms", "workers"],
    ["statistics", "networks.weight_norm", "likelihoods.likelihood"],
    ["networks.mlp"],
    ["networks.heads", "likelihoods.bernoulli", "likelihoods.logistic"],
    ["networks.conv", "networks.residual", "likelihoods.logistic_mixture"],
    ["networks", "likelihoods"],
    ["distributions", "data.config", "data.images", "data.rows", "schedules", "checkpoint"],
    ["flows.normalization", "flows.partitions", "training_config"],
    ["flows.coupling"],
    ["flows.none", "flows.planar", "flows.real_nvp", "flows.conv_real_nvp", "data.arrays", "data.batches"],
    ["data.binarization"],
    ["flows", "data.sources", "data.standard", "data.streaming"],
    ["data", "data.folder"],
    ["data.datasets"],
    ["vae"],
    ["objectives", "weights", "interpolation", "training_state", "population"],
    ["evaluation", "gradients", "validation"],
    ["training"],
    ["__init__"],
]
RANK = {f"flowvae.{name}".removesuffix(".__init__"): rank for rank, names in enumerate(ORDER) for name in names}


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def tree(path):
    return ast.parse(path.read_text(), str(path))


def imports(path):
    """Every module that a file imports anywhere in it, by full name, and the line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield (longer if longer in RANK else node.module), node.lineno


def importers(package, root):
    """Files of a package that import a top-level package."""
    found = (path for path in sources(package) for name, _ in imports(path) if name.split(".")[0] == root)
    return {path.relative_to(ROOT).as_posix() for path in found}


LIBRARY = sources("flowvae")
EVERYTHING = LIBRARY + sources("pipeline")
each_module = pytest.mark.parametrize("path", LIBRARY, ids=module_name)


def test_every_module_has_its_place():
    assert {module_name(path) for path in LIBRARY} == set(RANK)


@each_module
def test_imports_run_one_way(path):
    rank = RANK[module_name(path)]
    for name, line in imports(path):
        if name.split(".")[0] == "flowvae":
            assert RANK[name] < rank, f"{path}:{line} imports {name}"


@pytest.mark.parametrize("root", ["ray", "prefect", "dvc", "pipeline", "pyro", "zuko", "normflows"])
def test_library_knows_neither_the_pipeline_nor_its_peers(root):
    assert importers("flowvae", root) == set()


@pytest.mark.parametrize("root", ["torchvision", "mlxtend"])
def test_data_packages_are_imported_where_data_are_read(root):
    found = importers("flowvae", root)
    assert found and all(name.startswith("flowvae/data/") for name in found)


@pytest.mark.parametrize(
    ("root", "only"), [("prefect", "pipeline/workflow.py"), ("ray", "pipeline/distributed/"), ("pyro", "nobody")]
)
def test_one_importer_in_the_pipeline(root, only):
    assert all(name.startswith(only) for name in importers("pipeline", root))


@each_module
def test_a_flow_is_named_in_its_file_and_in_the_table_alone(path):
    """No if-chain on a name: outside flows/, no string is the name of a family; data/ has a binarization 'none'."""
    if "flows" in path.relative_to(ROOT).parts:
        return
    names = set(FLOWS) - ({"none"} if "data" in path.relative_to(ROOT).parts else set())
    constants = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)}
    assert not constants & names
    assert not any(name.startswith("flowvae.flows.") for name, _ in imports(path))


@pytest.mark.parametrize("family", FLOWS)
def test_a_flow_is_one_file_that_knows_no_other(family):
    path = ROOT / "flowvae" / "flows" / f"{family}.py"
    constants = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)}
    assert constants & set(FLOWS) == {family}
    others = {"flowvae.flows", *(f"flowvae.flows.{other}" for other in FLOWS)}
    assert not others & {name for name, _ in imports(path)}


@pytest.mark.parametrize("path", EVERYTHING, ids=module_name)
def test_nothing_is_unpickled(path):
    roots = {name.split(".")[0] for name, _ in imports(path)}
    assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False"


@pytest.mark.parametrize("path", EVERYTHING, ids=module_name)
def test_no_code_is_made_from_text(path):
    calls = {ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
    assert not calls & {"eval", "exec", "__import__", "os.system"}


def config_classes(base=Config):
    for child in base.__subclasses__():
        yield child
        yield from config_classes(child)


def test_no_setting_has_a_default_in_python():
    for path in EVERYTHING:
        if path.name != "__main__.py":
            importlib.import_module(module_name(path))
    classes = {child for child in config_classes() if child.__module__.startswith(("flowvae", "pipeline"))}
    assert len(classes) > 10
    defaults = {
        f"{child.__name__}.{name}"
        for child in classes
        for name, field in child.model_fields.items()
        if not field.is_required()
    }
    assert defaults == set()


def test_settings_are_frozen_and_closed():
    for child in config_classes():
        assert child.model_config["frozen"] and child.model_config["extra"] == "forbid", child
