"""The wheel is the library and nothing else, and it works where only its requirements are installed."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import PathDistribution, distribution, distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from project import ROOT

MIN_SETUPTOOLS = "77"  # as `build-system` in pyproject.toml

# What users of the library do first.
SCRIPT = """
import json
from importlib.metadata import distributions
from importlib.util import find_spec

import torch
import flowvae

posterior, prior = flowvae.Planar(num_transforms=2), flowvae.RealNVP(num_transforms=1)
vae = flowvae.VAE(image_shape=(1, 4, 4), latent_shape=(2,), posterior=posterior, prior=prior)
images = torch.arange(256).remainder(2).view(16, 1, 4, 4)
records = flowvae.fit(vae, images, images, epochs=2, batch_size=8)
log_likelihood = vae.log_prob(images, num_samples=10)
samples = vae.sample(3)
vae.save("model")
loaded = flowvae.load("model")
same = [torch.equal(value, loaded.state_dict()[name]) for name, value in vae.state_dict().items()]
print(json.dumps({
    "epochs": len(records),
    "finite": log_likelihood.isfinite().all().item() and samples.shape == (3, 1, 4, 4),
    "same": all(same),
    "version": flowvae.__version__,
    "file": flowvae.__file__,
    "pipeline": find_spec("pipeline") is not None,
    "installed": sorted(each.name for each in distributions()),
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed, without the network. Returns: its output."""
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    ran = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the library by the setuptools of this environment."""
    if Version(version("setuptools")) < Version(MIN_SETUPTOOLS):
        pytest.skip(f"needs setuptools {MIN_SETUPTOOLS} or newer in the environment of the tests")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    for package in ("flowvae", "pipeline"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", "dist", cwd=folder)
    (path,) = (folder / "dist").glob("*.whl")
    return path


def info_folder(wheel: Path) -> str:
    """The folder of a wheel's metadata."""
    return wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"


def requires(wheel: Path) -> list[str] | None:
    """Requires-Dist of a wheel."""
    return PathDistribution(zipfile.Path(wheel) / info_folder(wheel)).requires


def required_by(requires: list[str] | None) -> set[str]:
    """The names in Requires-Dist, without extras and what is for other systems."""
    requirements = map(Requirement, requires or ())
    return {
        canonicalize_name(requirement.name)
        for requirement in requirements
        if not requirement.marker or requirement.marker.evaluate({"extra": ""})
    }


def closure(names: set[str]) -> set[str]:
    """Distributions, and all that they require."""
    closed: set[str] = set()
    while todo := names - closed:
        closed |= todo
        names = closed.union(*(required_by(distribution(name).requires) for name in todo))
    return closed


def link(name: str, packages: Path) -> None:
    """Link the files of an installed distribution into another environment."""
    installed = distribution(name)
    for top in {path.parts[0] for path in installed.files or () if path.parts[0] not in ("..", "__pycache__")}:
        if not (packages / top).exists():  # folders of namespace packages belong to several distributions
            (packages / top).symlink_to(Path(str(installed.locate_file(top))).resolve())


def test_wheel_holds_only_the_library(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"flowvae", info_folder(wheel)}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flowvae").rglob("*.py")}
    assert {name for name in names if name.startswith("flowvae/")} == sources | {"flowvae/py.typed"}
    assert required_by(requires(wheel)) == {"numpy", "pillow", "pydantic", "safetensors", "torch", "typer"}


def test_library_trains_where_only_its_requirements_are_installed(wheel, tmp_path):
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    packages = tmp_path / "env/lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=tmp_path)
    needed = closure(required_by(requires(wheel)))
    assert {"ray", "prefect", "dvc", "torchvision", "mlxtend", "scipy"}.isdisjoint(needed)
    for name in needed:
        link(name, packages)
    seen = json.loads(run(python, "-I", "-c", SCRIPT, cwd=tmp_path))
    assert seen["epochs"] == 2
    assert seen["finite"] and seen["same"]
    assert seen["file"] == str(packages / "flowvae/__init__.py") and not seen["pipeline"]
    assert seen["version"] == wheel.name.split("-")[1]
    assert {canonicalize_name(name) for name in seen["installed"]} == needed | {"flowvae"}
    check_commands(python.with_name("flowvae"), tmp_path)


def check_commands(command: Path, folder: Path) -> None:
    """Every command on a model answers; what takes an extra or a project says so."""
    assert "model card" in run(command, "export", "model", "-o", "exported", cwd=folder)
    assert "parameters" in run(command, "info", "exported", cwd=folder)
    run(command, "sample", "exported", "-o", "images.npz", "-n", "4", cwd=folder)
    assert "bits per dimension" in run(command, "score", "model", "images.npz", "--samples", "2", cwd=folder)
    for words in (("reconstruct",), ("interpolate",), ("encode",), ("impute", "--mask", "lower-half", "--steps", "2")):
        run(command, words[0], "model", "images.npz", "-o", f"{words[0]}.npz", *words[1:], cwd=folder)
        assert (folder / f"{words[0]}.npz").stat().st_size
    for words, complaint in (
        (("export", "model", "-o", "other", "--onnx"), "onnx, onnxruntime, onnxscript: not installed; pip install"),
        (("push", "model", "me/model"), "huggingface_hub: not installed; pip install"),
        (("status",), "not a project"),
    ):
        ran = subprocess.run([command, *words], cwd=folder, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1) and complaint in ran.stderr, ran
    assert not (folder / "other").exists()


@pytest.mark.parametrize("python", ["3.10.0", "3.11.0", "3.12.0", "3.13.0"])
def test_pins_are_for_pythons_that_they_support(python):
    """As far as they are installed here; each says so itself."""
    environment = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    installed = {canonicalize_name(found.metadata["Name"]): found for found in distributions()}
    checked = 0
    for pin in map(Requirement, filter(None, lines)):
        found = installed.get(canonicalize_name(pin.name))
        if found is None or found.version not in pin.specifier:
            continue
        checked += 1
        if pin.marker is None or pin.marker.evaluate(environment):
            assert python in SpecifierSet(found.metadata.get("Requires-Python") or ""), (
                f"{pin} is not for Python {python}"
            )
    assert checked > 100
