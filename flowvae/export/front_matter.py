"""Metadata at the head of a card: YAML, in the part of it that is enough for text, numbers, lists and mappings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Metadata between two lines of dashes."""
    return "\n".join(("---", *yaml_lines(metadata), "---"))


def yaml_lines(value: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    """The lines of a mapping or a list, without indentation."""
    entries = (
        [(f"{name}:", each) for name, each in value.items()]
        if isinstance(value, Mapping)
        else ([("-", each) for each in value])
    )
    for start, each in entries:
        if isinstance(each, Mapping | list):
            inner = [f"  {line}" for line in yaml_lines(each)]
            yield from [start, *inner] if start != "-" else [f"- {inner[0].lstrip()}", *inner[1:]]
        else:
            yield f"{start} {json.dumps(each, ensure_ascii=False)}"  # a scalar of JSON is one of YAML
