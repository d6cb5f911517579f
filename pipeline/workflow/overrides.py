"""Values of params.yaml that hold for one run."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.utils.hydra import apply_overrides

from flowvae.errors import InputError
from pipeline.files import read_json, write_json, write_text
from pipeline.paths import PARAMS

JOURNAL = Path(".dvc/tmp/overrides.json")


@contextmanager
def overridden(overrides: Sequence[str]) -> Iterator[None]:
    """Put these values into params.yaml inside the block, and restore the file afterwards.

    If this process is killed inside the block, the next call restores the file.

    Args:
        overrides: in the syntax of `dvc exp run --set-param`: training.epochs=2, ~variants.vae.

    Raises:
        InputError: one line per invalid override or key; nothing was changed.
    """
    restore()
    if not overrides:
        yield
        return
    before, during = PARAMS.read_text(encoding="utf-8"), with_overrides(PARAMS, overrides)
    write_json(JOURNAL, {"before": before, "during": during})
    write_text(PARAMS, during)
    try:
        yield
    finally:
        restore()


def restore() -> None:
    """Undo the overrides of a run in params.yaml, unless the file was edited meanwhile."""
    if JOURNAL.exists():
        texts = read_json(JOURNAL)
        if PARAMS.read_text(encoding="utf-8") == texts["during"]:
            write_text(PARAMS, texts["before"])
        JOURNAL.unlink()


def params_problems() -> list[str]:
    """What is wrong in params.yaml, one line each. DVC reads the file first, and its messages say less."""
    from pipeline.params.reading import load_params

    try:
        load_params(PARAMS)
    except InputError as error:
        return str(error).splitlines()
    return []


def with_overrides(path: Path, overrides: Sequence[str]) -> str:
    """The text of params.yaml with these values, which are checked like any params.yaml.

    Raises:
        InputError: one line per invalid override or key.
    """
    from pipeline.params.reading import load_params  # imports torch, which a run without overrides does not need

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, folder))
        for override in overrides:
            try:
                apply_overrides(copy, [override])
            except DvcException as error:
                (reason, *_) = str(error.__cause__ or error).strip().splitlines()
                expected = "expected KEY=VALUE for a key of params.yaml, or +KEY=VALUE for a new key"
                raise InputError(f"--set-param {override}: {reason.rstrip('.')}; {expected}") from error
        try:
            load_params(copy)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), f"--set-param {' '.join(overrides)}")) from error
        return copy.read_text(encoding="utf-8")
