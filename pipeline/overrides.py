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
    """params.yaml with these values inside, and as it was afterwards; even if this process is killed, at the next call.

    Args:
        overrides: as `dvc exp run --set-param` takes them: training.epochs=2, +variants.x.flow=none, ~variants.vae.

    Raises:
        InputError: one line per override or key that makes no sense; nothing was changed.
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
    """Take back what a run has put into params.yaml, unless somebody has edited it since."""
    if JOURNAL.exists():
        texts = read_json(JOURNAL)
        if PARAMS.read_text(encoding="utf-8") == texts["during"]:
            write_text(PARAMS, texts["before"])
        JOURNAL.unlink()


def wrong_params() -> list[str]:
    """What is wrong in params.yaml, a line each; DVC, which reads it first, says less of it."""
    from pipeline.params import load_params

    try:
        load_params(PARAMS)
    except InputError as error:
        return str(error).splitlines()
    return []


def with_overrides(path: Path, overrides: Sequence[str]) -> str:
    """The text of params.yaml with these values, checked as any params.yaml is.

    Raises:
        InputError: one line per override or key that makes no sense.
    """
    from pipeline.params import load_params  # and torch, which a run without overrides need not wait for

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, folder))
        for override in overrides:
            try:
                apply_overrides(copy, [override])
            except DvcException as error:
                (why, *_) = str(error.__cause__ or error).strip().splitlines()
                expected = "expected KEY=VALUE of a key in params.yaml, or +KEY=VALUE for a new one"
                raise InputError(f"--set-param {override}: {why.rstrip('.')}; {expected}") from error
        try:
            load_params(copy)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), f"--set-param {' '.join(overrides)}")) from error
        return copy.read_text(encoding="utf-8")
