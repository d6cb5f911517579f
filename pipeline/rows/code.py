"""A hash of the code that a row depends on, which comments, docstrings and formatting do not change."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flowvae.model.loading import build_vae
from flowvae.model.settings import VAEConfig
from pipeline.fitting import TRAINING_CODE
from pipeline.study.trials import SCORING_CODE

ROOT = Path(__file__).parents[2]
FITTING = "pipeline.fitting"  # imports everything that training depends on, except for entries of tables
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def training_code(config: VAEConfig) -> str:
    """SHA-256 of the code of data, of training, and of the parts of the model that a row has.

    Other families of flows, networks and likelihoods are not part of it: adding or editing one leaves the row as it is.
    """
    modules = reached({FITTING, *own_modules(config)})
    return digest(name for name in modules if is_listed(name, TRAINING_CODE))


def scoring_code() -> str:
    """SHA-256 of the code that scores a trained model."""
    return digest(
        part.removesuffix(".py").replace("/", ".") for part in SCORING_CODE if "scores" in part or "flowvae" in part
    )


def own_modules(config: VAEConfig) -> set[str]:
    """The modules that define the layers of a model and its settings."""
    parts = [value for value in dict(config).values() if isinstance(value, BaseModel)]
    layers = build_vae(config, seed=0).modules()
    kinds = {base for part in (*parts, *layers) for base in type(part).__mro__}
    return {kind.__module__ for kind in kinds if kind.__module__.startswith("flowvae.")}


def reached(roots: Iterable[str]) -> set[str]:
    """Modules of the project that others import, directly or not; what tables import is reached from their entries."""
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imported(name)
    return seen


def is_listed(module: str, code: Iterable[str]) -> bool:
    """Whether a module is one of the files, or in one of the folders."""
    file = file_of(module).relative_to(ROOT).as_posix()
    return any(file == part or file.startswith(f"{part}/") for part in code)


def digest(modules: Iterable[str]) -> str:
    """SHA-256 over modules and what they say."""
    content = "\n".join(f"{name} {hash_of(name)}" for name in sorted(modules))
    return hashlib.sha256(content.encode()).hexdigest()


@cache
def hash_of(module: str) -> str:
    """SHA-256 of what a module says; of a package only its functions and classes, because the rest are tables."""
    path = file_of(module)
    return hash_of_source(path.read_text(encoding="utf-8"), only_definitions=path.name == "__init__.py")


def hash_of_source(source: str, *, only_definitions: bool = False) -> str:
    """SHA-256 of the syntax tree of a source, without docstrings."""
    statements = ast.parse(source).body
    kept = [one for one in statements if isinstance(one, DEFINITIONS) or not only_definitions]
    return hashlib.sha256(repr(plain(kept)).encode()).hexdigest()


def plain(node: Any) -> Any:
    """A syntax tree as nested tuples: without positions, strings that are statements, and fields that are empty.

    Which empty fields there are differs between versions of Python.
    """
    if isinstance(node, list):
        return tuple(plain(item) for item in node if not is_text(item))
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return type(node).__name__, tuple((name, plain(value)) for name, value in fields)
    return node


def is_text(node: Any) -> bool:
    """Whether a statement is a docstring, or another string without effect."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def imported(module: str) -> tuple[str, ...]:
    """Modules of the project that a module imports; none of a package, whose imports are the entries of a table."""
    path = file_of(module)
    if path.name == "__init__.py":
        return ()
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [
                longer if is_module(longer := f"{node.module}.{alias.name}") else node.module for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return tuple(name for name in names if is_module(name))


def is_module(name: str) -> bool:
    """Whether this is a module of the project."""
    return name.startswith(("flowvae", "pipeline")) and file_of(name).is_file()


def file_of(module: str) -> Path:
    """The file of a module of the project."""
    base = ROOT / Path(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
