"""Put a preset into params.yaml: python -m pipeline.preset NAME, or a FILE.yaml.

A preset is a part of params.yaml, kept in params/NAME.yaml. What it names replaces what params.yaml has;
all else, comments too, stays. A mapping of KINDS that gives its `name` is replaced as one. Each preset that ships names
all that any other changes, so that it is the same after another as alone.
"""

import io
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flowvae.errors import InputError
from flowvae.files import write_atomically
from pipeline.params import check_params, leaf_paths, read_yaml
from pipeline.paths import PARAMS

PRESETS = Path("params")
WHOLE = ("variants", "schedule", "kl_warmup")  # replaced as one, not key by key
KINDS = ("likelihood", "encoder", "decoder")  # their keys depend on their `name`


def main() -> int:
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
    for line in changed or [f"{PARAMS} has it all already"]:
        print(line)
    return 0


def apply_preset(path: Path, preset: Path) -> list[str]:
    """Write a preset into a params.yaml; one line per key that changed.

    Raises:
        InputError: a file cannot be read, or the two do not fit together. Nothing is written then.
    """
    before, changes = read_yaml(path), read_yaml(preset)
    after = overlay(before, changes)
    check_params(after, preset)
    yaml = YAML()
    yaml.width = 1000  # no line is broken
    yaml.representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    content, changes = (yaml.load(file.read_text(encoding="utf-8")) for file in (path, preset))  # with their style
    text = io.StringIO()
    yaml.dump(overlay(content, changes), text)
    write_atomically(path, text.getvalue().encode())
    return [
        f"{'.'.join(leaf)}: {value_at(before, leaf)} -> {value_at(after, leaf)}"
        for leaf in dict.fromkeys((*leaf_paths(before), *leaf_paths(after)))
        if value_at(before, leaf) != value_at(after, leaf)
    ]


def overlay(content: Any, changes: Any) -> Any:
    """`content`, a nested mapping, with the values that `changes` names in place of its own."""
    if not isinstance(content, dict) or not isinstance(changes, dict):
        return changes
    merged = content.copy()
    for key, value in changes.items():
        whole = key in WHOLE or key not in content or (key in KINDS and isinstance(value, dict) and "name" in value)
        merged[key] = value if whole else overlay(content[key], value)
    return merged


def value_at(tree: Any, path: tuple[str, ...]) -> Any:
    """The value at a path of keys; None where there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


if __name__ == "__main__":
    sys.exit(main())
