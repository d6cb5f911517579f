"""What a job was asked for. Results belong to a request, so that those of an earlier one are never taken for them."""

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from flowvae.config import Config
from flowvae.errors import InputError
from flowvae.files import sha256_of_files
from pipeline.distributed.storage import Storage
from pipeline.submit.project import source_files

REQUEST = "request.json"


class Request(Config):
    """The stages of a job, and what their results depend on.

    Attributes:
        stages: to reproduce.
        data: the name of the prepared arrays in storage, which is a hash of them.
        sources: SHA-256 over code and params.
    """

    stages: list[str]
    data: str
    sources: str

    @property
    def digest(self) -> str:
        """A hash of the request, which names the folder of its results."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:32]

    def results(self, uri: str, job: str) -> Storage:
        """The folder of the results in storage; equal requests share it, others never do."""
        return Storage.of(uri, f"jobs/{job}/{self.digest}")


def read_request(uri: str, job: str) -> Request:
    """The last request under the name of a job.

    Raises:
        InputError: there is none, or it is damaged.
    """
    storage = Storage.of(uri, f"jobs/{job}")
    content = storage.read(REQUEST)
    if content is None:
        raise InputError(
            f"{storage.folder}/{REQUEST}: missing, because no job of this name was prepared or submitted with this "
            "FLOWVAE_STORAGE; python -m pipeline.submit --prepare does so"
        )
    try:
        return Request.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{storage.folder}/{REQUEST}: damaged, not a request; submit the job again") from error


def write_request(uri: str, job: str, request: Request) -> None:
    """Store a request under the name of a job, in place of an earlier one."""
    Storage.of(uri, f"jobs/{job}").write(REQUEST, request.model_dump_json().encode())


def source_hash(project: Path) -> str:
    """SHA-256 over everything that results depend on, except for the data."""
    return sha256_of_files(project, source_files(project))
