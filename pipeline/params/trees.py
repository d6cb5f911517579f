"""Nested mappings: their leaves, and one laid over another."""

from collections.abc import Mapping
from typing import Any

WHOLE = ("variants", "studies", "schedule", "kl_warmup")  # replaced as a whole, not key by key
TAGGED = ("likelihood", "encoder", "decoder")  # their keys depend on their `name`


def leaf_paths(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all values that are not mappings."""
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, value in tree.items() for leaf in leaf_paths(value, (*path, str(key)))]


def value_at(tree: Any, path: tuple[str, ...]) -> Any:
    """The value at a path of keys; None if there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def overlay(content: Any, changes: Any) -> Any:
    """A nested mapping in which the values of `changes` replace those of `content`.

    A mapping that is in WHOLE, or that is in TAGGED and gives its `name`, is replaced as a whole.
    """
    if not isinstance(content, dict) or not isinstance(changes, dict):
        return changes
    merged = content.copy()
    for key, value in changes.items():
        whole = key in WHOLE or key not in content or (key in TAGGED and isinstance(value, dict) and "name" in value)
        merged[key] = value if whole else overlay(content[key], value)
    return merged


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths as a nested mapping: {'a.b': 1} -> {'a': {'b': 1}}."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        node = tree
        *parents, last = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
