"""Values of params.yaml that hold for one run, which works in a copy of the project."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flowvae.errors import InputError
from pipeline.dvc_internals import DvcException, apply_overrides
from pipeline.listing import working_in
from pipeline.paths import PARAMS
from pipeline.running.trackers import prepare_clients, requested_trackers
from pipeline.workflow.copies import update_copy

COPIES = Path(".dvc/tmp/overrides")
DATA_ROOT = "FLOWVAE_DATA_ROOT"


@contextmanager
def overridden(overrides: Sequence[str]) -> Iterator[Path | None]:
    """Work with these values inside the block: in a copy of the project, which is kept for the next run with them.

    Args:
        overrides: in the syntax of `dvc exp run --set-param`: training.epochs=2, ~variants.vae.

    Yields:
        The copy, relative to the project; without overrides None, and the block works in the project itself.

    Raises:
        InputError: one line per invalid override or key, or trackers cannot be used; nothing was changed.
    """
    prepare_clients(requested_trackers(os.environ), Path.cwd())  # a copy shows its runs where the project does
    if not overrides:
        yield None
        return
    project, copy = Path.cwd(), COPIES / name_of(overrides)
    text, images = with_overrides(PARAMS, overrides)
    update_copy(project, project / copy, text, images)
    given = os.environ.get(DATA_ROOT)
    if given:
        os.environ[DATA_ROOT] = os.path.abspath(given)
    try:
        with working_in(copy):
            yield copy
    finally:
        if given:
            os.environ[DATA_ROOT] = given


def name_of(overrides: Sequence[str]) -> str:
    """A name for the copy: what can be read of the overrides, and a hash of them."""
    readable = re.sub("[^a-z0-9]+", "-", " ".join(overrides).lower()).strip("-")[:40]
    return f"{readable}-{hashlib.sha256(repr(list(overrides)).encode()).hexdigest()[:12]}"


def params_problems() -> list[str]:
    """What is wrong in params.yaml, one line each. DVC reads the file first, and its messages say less."""
    from pipeline.params.reading import load_params

    try:
        load_params(PARAMS)
    except InputError as error:
        return str(error).splitlines()
    return []


def with_overrides(path: Path, overrides: Sequence[str]) -> tuple[str, Path]:
    """The text of params.yaml with these values, which are checked like any params.yaml.

    Returns:
        The text, and the folder of the user's own images in it.

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
            params = load_params(copy)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), f"--set-param {' '.join(overrides)}")) from error
        return copy.read_text(encoding="utf-8"), Path(params.data.folder.path).expanduser()
