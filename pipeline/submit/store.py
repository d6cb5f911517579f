"""Results of stages in storage, each under a hash of what it depends on: no job repeats what another has finished."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from flowvae.config import Config
from flowvae.errors import InputError
from flowvae.files import pieces, sha256
from pipeline.distributed.storage import PIECE, Storage

RESULT = "result.json"
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Result(Config):
    """The result of a stage.

    Attributes:
        entry: of the stage in dvc.lock, as DVC wrote it where the stage ran.
        files: SHA-256 of each file of the outputs, by path. It is also the name of the file in storage.
    """

    entry: dict[str, Any]
    files: dict[str, Checksum]


@dataclass(frozen=True)
class Store:
    """Results of stages in the storage at a URI.

    Args:
        uri: FLOWVAE_STORAGE.
    """

    uri: str

    def folder(self, stage: str, key: str) -> Storage:
        """The folder of a result; other code, data or params have another key, and so another folder."""
        return Storage.of(self.uri, f"stages/{stage}-{key}")

    def put(self, project: Path, stage: str, key: str, entry: dict[str, Any], outputs: Sequence[str]) -> None:
        """Store the outputs of a stage, and then what describes them, which marks them as complete."""
        folder = self.folder(stage, key)
        files = {name: sha256(project / name) for output in outputs for name in files_of(project, output)}
        for name, checksum in files.items():
            if not folder.has(checksum, (project / name).stat().st_size):
                folder.write_pieces(checksum, pieces(project / name, PIECE))
        folder.write(RESULT, Result(entry=entry, files=files).model_dump_json().encode())

    def get(self, stage: str, key: str) -> Result | None:
        """The result of a stage; None if there is none.

        Raises:
            InputError: it is damaged.
        """
        folder = self.folder(stage, key)
        content = folder.read(RESULT)
        if content is None:
            return None
        try:
            return Result.model_validate_json(content)
        except ValidationError as error:
            raise InputError(f"{folder.folder}/{RESULT}: damaged, not a result; nothing was written") from error

    def fetch(self, stage: str, key: str, files: dict[str, str], target: Path) -> None:
        """Fetch files of a result into a folder, and check them.

        Args:
            stage: whose result it is.
            key: of the result.
            files: of the result; their paths are safe (`check_files`).
            target: the folder.

        Raises:
            InputError: a file is missing or damaged.
        """
        folder = self.folder(stage, key)
        for name, checksum in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError), path.open("wb") as file:
                file.writelines(folder.pieces(checksum))
            if sha256(path) != checksum:
                raise InputError(f"{folder.folder}/{checksum}: {name} is missing or damaged; submit the job again")


def files_of(project: Path, output: str) -> list[str]:
    """The files of an output, relative to the project: the output itself, or all files in its folder."""
    path = project / output
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [file.relative_to(project).as_posix() for file in found]
