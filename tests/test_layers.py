"""Rules of the code base that no single file shows: which module may import which, and what appears nowhere."""

import ast
import importlib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from flowvae.config import Config
from flowvae.model.flows import FLOWS

ROOT = Path(__file__).parents[1]
# The folders and files of flowvae. Each line may import the lines above it, but not its neighbours on the same line.
LAYERS = [
    ["config", "errors", "files", "randomness"],
    ["model", "data", "estimates", "pictures"],
    ["labels"],
    ["training", "datasets", "evaluation", "interpolation", "imputation", "nearest", "sampling", "adapters"],
    ["diagnostics", "annealing", "description"],
    ["conditional", "export"],
    ["__init__"],
    ["commands"],
    ["__main__"],
]
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
WITH_A_BINARIZATION_NONE = {"data", "datasets"}  # folders of flowvae in which "none" is not the name of a flow


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


LIBRARY, PIPELINE = sources("flowvae"), sources("pipeline")
EVERYTHING = LIBRARY + PIPELINE
MODULES = {module_name(path) for path in EVERYTHING}
each_module = pytest.mark.parametrize("path", LIBRARY, ids=module_name)


def tree(path):
    return ast.parse(path.read_text(), str(path))


def constants(path):
    """All literal values in a file."""
    return {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)}


def imports(path):
    """Every module that a file imports, also inside functions: its full name, and the line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield (longer if longer in MODULES else node.module), node.lineno


def importers(package, root):
    """Files of a package that import a top-level package."""
    files = (path for path in sources(package) for name, _ in imports(path) if name.split(".")[0] == root)
    return {path.relative_to(ROOT).as_posix() for path in files}


def part(module):
    """The folder or file of flowvae that a module belongs to, as in LAYERS."""
    _, _, inside = module.partition(".")
    return inside.split(".")[0] or "__init__"


def test_every_part_of_the_library_has_a_layer():
    assert {part(module_name(path)) for path in LIBRARY} == set(LAYER)


@each_module
def test_imports_run_one_way(path):
    own = part(module_name(path))
    for name, line in imports(path):
        if name.split(".")[0] == "flowvae":
            other = part(name)
            inside = other == own and (ROOT / "flowvae" / own).is_dir()
            assert inside or LAYER[other] < LAYER[own], f"{path}:{line} imports {name}"


@pytest.mark.parametrize("files", [LIBRARY, PIPELINE], ids=["flowvae", "pipeline"])
def test_no_imports_form_a_circle(files):
    modules = {module_name(path) for path in files}
    graph = {module_name(path): {name for name, _ in imports(path)} & modules for path in files}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("root", ["ray", "prefect", "dvc", "pipeline", "pyro", "zuko", "normflows"])
def test_library_imports_neither_the_pipeline_nor_its_peers(root):
    assert importers("flowvae", root) == set()


@pytest.mark.parametrize(
    ("package", "root", "folders"),
    [
        ("flowvae", "torchvision", ("flowvae/datasets/",)),
        ("flowvae", "mlxtend", ("flowvae/datasets/",)),
        ("flowvae", "onnxruntime", ("flowvae/export/",)),
        ("flowvae", "huggingface_hub", ("flowvae/export/",)),
        ("pipeline", "ray", ("pipeline/distributed/",)),
        ("pipeline", "prefect", ("pipeline/workflow/",)),
        ("pipeline", "dvc", ("pipeline/dvc_internals.py",)),
        ("pipeline", "dvc_data", ("pipeline/dvc_internals.py",)),
    ],
)
def test_packages_are_imported_in_one_place_only(package, root, folders):
    files = importers(package, root)
    assert files
    assert [file for file in files if not file.startswith(folders)] == []


@pytest.mark.parametrize("root", ["pyro", "zuko", "normflows", "torchvision", "mlxtend"])
def test_pipeline_imports_no_peers_and_no_data_packages(root):
    assert importers("pipeline", root) == set()


@pytest.mark.parametrize("folder", ["workflow", "submit", "stages"])
def test_what_starts_the_stages_is_imported_by_nothing_that_they_use(folder):
    package = f"pipeline.{folder}"
    users = {"workflow": ("pipeline.workflow", "pipeline.submit")}.get(folder, (package,))
    for path in PIPELINE:
        if not module_name(path).startswith(users):
            assert [name for name, _ in imports(path) if name.startswith(package)] == [], path


@each_module
def test_a_flow_is_named_only_in_its_file_and_in_the_table(path):
    """No if-chain on a name: outside of flows, no string is the name of one."""
    if "flows" in path.relative_to(ROOT).parts:
        return
    names = set(FLOWS) - ({"none"} if part(module_name(path)) in WITH_A_BINARIZATION_NONE else set())
    assert not constants(path) & names
    assert not any(name.startswith("flowvae.model.flows.") for name, _ in imports(path))


@pytest.mark.parametrize("path", PIPELINE, ids=module_name)
def test_pipeline_names_no_flow(path):
    """Except none, which also means a binarization, and no early stopping."""
    assert not constants(path) & (set(FLOWS) - {"none"})


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow_is_one_file_that_imports_no_other(flow):
    path = ROOT / "flowvae" / "model" / "flows" / f"{flow}.py"
    assert constants(path) & set(FLOWS) == {flow}
    others = {"flowvae.model.flows", *(f"flowvae.model.flows.{other}" for other in FLOWS)}
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
def test_no_text_is_run_as_code(path):
    calls = {ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
    assert not calls & {"eval", "exec", "__import__", "os.system"}


def config_classes(base=Config):
    for child in base.__subclasses__():
        yield child
        yield from config_classes(child)


def test_only_settings_of_models_and_of_training_have_defaults_in_python():
    """Which serve the library. The pipeline reads all values from params.yaml."""
    for path in EVERYTHING:
        if path.name != "__main__.py":
            importlib.import_module(module_name(path))
    classes = {child for child in config_classes() if child.__module__.startswith(("flowvae", "pipeline"))}
    classes = {child for child in classes if not child.__module__.startswith(("flowvae.model.", "flowvae.training."))}
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
