"""Apply a preset to params.yaml: python -m pipeline.preset NAME, or a FILE.yaml.

A preset is a part of params.yaml; those that ship are presets/NAME.yaml. The values that it names replace those of
params.yaml; all others stay, and so do comments. Mappings are merged key by key, except for those that
`pipeline.params.trees` lists. A preset that names only `studies` can be applied on top of any other; all others name
everything that any other changes, so the result does not depend on what was applied before.
"""

import io
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from flowvae.errors import InputError
from flowvae.files import write_atomically
from pipeline.params.reading import check_params, read_yaml
from pipeline.params.trees import leaf_paths, overlay, value_at
from pipeline.paths import PARAMS

PRESETS = Path("presets")
LINE_WIDTH = 1000  # characters: no line is broken


def main() -> int:
    """Exit code 0, or 1 after one line per mistake of the user's on standard error."""
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if len(sys.argv) != 2 or not (sys.argv[1] in known or sys.argv[1].endswith(".yaml")):
        print(f"usage: python -m pipeline.preset NAME, with a NAME among {', '.join(known)}", file=sys.stderr)
        return 1
    name = sys.argv[1]
    try:
        changed = apply_preset(PARAMS, PRESETS / f"{name}.yaml" if name in known else Path(name))
    except InputError as error:
        for line in str(error).splitlines():
            print(f"preset: {line}", file=sys.stderr)
        return 1
    for line in changed or [f"{PARAMS} has all values of {name} already"]:
        print(line)
    return 0


def apply_preset(path: Path, preset: Path) -> list[str]:
    """Write the values of a preset into a params.yaml.

    Returns:
        One line per key that changed.

    Raises:
        InputError: a file cannot be read, or the two do not fit together. Nothing is written then.
    """
    before, changes = read_yaml(path), read_yaml(preset)
    after = overlay(before, changes)
    check_params(after, preset)
    yaml = round_trip()
    content, changes = (yaml.load(file.read_text(encoding="utf-8")) for file in (path, preset))  # with their style
    merged, text = with_merge_sources(overlay(content, changes)), io.StringIO()
    keep_list_styles(content, merged)
    yaml.dump(merged, text)
    if read_text(text.getvalue()) != after:
        raise InputError(f"{preset}: {path} cannot be written with these values and its comments; edit it by hand")
    write_atomically(path, text.getvalue().encode())
    return [
        f"{'.'.join(leaf)}: {value_at(before, leaf)} -> {value_at(after, leaf)}"
        for leaf in dict.fromkeys((*leaf_paths(before), *leaf_paths(after)))
        if value_at(before, leaf) != value_at(after, leaf)
    ]


def keep_list_styles(before: Any, after: Any) -> None:
    """Give each list the style of the one that it replaces, because a comment after its key fits only that style."""
    if isinstance(before, CommentedSeq) and isinstance(after, CommentedSeq):
        if before.fa.flow_style():
            after.fa.set_flow_style()
        else:
            after.fa.set_block_style()
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() & after.keys():
            keep_list_styles(before[key], after[key])


def read_text(text: str) -> Any:
    """The plain contents of a YAML text; None if it is not valid."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return None


def with_merge_sources(tree: CommentedMap) -> CommentedMap:
    """Write out the merged keys (`<<: *x`) of mappings whose source &x the preset has removed; in place."""
    kept = {id(mapping) for mapping in mappings(tree)}
    for mapping in mappings(tree):
        for key, value in mapping.items():
            if isinstance(value, CommentedMap) and any(id(source) not in kept for source in value.merge):
                mapping[key] = CommentedMap(value.items())
                mapping[key].fa.set_flow_style()
    return tree


def mappings(tree: CommentedMap) -> list[CommentedMap]:
    """A mapping and all mappings inside it, without those that it only merges."""
    children = [value for _, value in tree.non_merged_items() if isinstance(value, CommentedMap)]
    return [tree, *(mapping for child in children for mapping in mappings(child))]


def round_trip() -> YAML:
    """A reader and writer that keeps comments, anchors and the style of each value."""
    yaml = YAML()
    yaml.width = LINE_WIDTH

    def represent_none(representer: Any, value: None) -> Any:
        return representer.represent_scalar("tag:yaml.org,2002:null", "null")

    yaml.representer.add_representer(type(None), represent_none)
    return yaml


if __name__ == "__main__":
    sys.exit(main())
