"""Images that cannot be read: listed, refused above a limit, and told of below it."""

import sys
from collections.abc import Mapping

from flowvae.data.rows import Source
from flowvae.data.streaming import Corrupt, image_files
from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import write_text

LIST = paths.LOGS / "prepare" / "corrupt.txt"
SHOWN = 10  # in the terminal; the file has all


def check_corrupt(source: Source, corrupt: Mapping[str, Corrupt], limit: float) -> None:
    """List the images that cannot be read.

    Raises:
        InputError: they are more than the limit, or a split has no others.
    """
    files = image_files(source)
    lines = [
        f"{files[split].folder / files[split].names[i]}: {reason}"
        for split, found in corrupt.items()
        for i, reason in found.items()
    ]
    if not lines:
        LIST.unlink(missing_ok=True)  # of an earlier run
        return
    lines = [line.encode(errors="backslashreplace").decode() for line in lines]
    write_text(LIST, "\n".join(lines) + "\n")
    total = sum(map(len, files.values()))
    emptied = [split for split, found in corrupt.items() if len(found) == len(files[split])]
    if emptied or len(lines) > limit * total:
        raise InputError(
            f"data.max_corrupt: {len(lines):,} of {total:,} images cannot be read, and {limit} of them may be so; the "
            f"first is {lines[0]}; {LIST} lists all; mend them, take them away, or raise the limit"
        )
    for line in lines[:SHOWN]:
        print(f"prepare: left out {line}", file=sys.stderr)
    if len(lines) > SHOWN:
        print(f"prepare: left out {len(lines) - SHOWN:,} more, listed in {LIST}", file=sys.stderr)


def corrupt_banner(source: Source, corrupt: Mapping[str, Corrupt]) -> str | None:
    """What readers must know of images that were left out."""
    counts = {split: len(found) for split, found in corrupt.items() if found}
    if not counts:
        return None
    total = sum(map(len, image_files(source).values()))
    where = ", ".join(f"{count:,} of {split}" for split, count in counts.items())
    return f"CORRUPT IMAGES LEFT OUT: {sum(counts.values()):,} of {total:,} images could not be read ({where})."
