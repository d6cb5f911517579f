"""Upload to a repository on the Hugging Face hub, or on a server like it at HF_ENDPOINT."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from flowvae.data.arrays import PROVENANCE
from flowvae.description import METRICS, TRAINING
from flowvae.errors import InputError
from flowvae.export.card import PICTURE
from flowvae.export.folder import CARD, ONNX, export_model
from flowvae.export.results import PROTOCOL
from flowvae.model.loading import load
from flowvae.model.weights import CONFIG, WEIGHTS

FILES = (CARD, WEIGHTS, CONFIG, TRAINING, METRICS, PROTOCOL, PROVENANCE, PICTURE, f"{ONNX}/*.onnx")
MESSAGE = "Upload a model of flowvae"
REFUSALS = {
    401: "the token is not valid; get one at https://huggingface.co/settings/tokens",
    403: "the token may not write there",
    404: "there is no such user or organisation, or the token may not see it",
}


class Pushed(NamedTuple):
    """What was uploaded: the repository's page, and the number of files."""

    url: str
    num_files: int


def push_model(folder: Path | str, repository: str, *, private: bool = False) -> Pushed:
    """Upload a model to a repository, which is created if necessary. Other files in the folder stay here.

    The token is that of huggingface_hub: HF_TOKEN, or what `hf auth login` stored. It appears in no message.

    Args:
        folder: one that `export_model` wrote, or any other model, which is exported first.
        repository: user/name.
        private: whether a new repository is private.

    Raises:
        InputError: huggingface_hub is missing, there is no token, the model is damaged, the hub cannot be reached, or
            it refuses.
    """
    if find_spec("huggingface_hub") is None:
        raise InputError("huggingface_hub: not installed; pip install 'flowvae[hub]' installs it")
    from huggingface_hub import errors, get_token
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except errors.HFValidationError as error:
        raise InputError(f"{repository}: not the name of a repository; expected user/name") from error
    if get_token() is None:
        raise InputError("no token for the hub; set HF_TOKEN, or run hf auth login")
    folder = Path(folder)
    load(folder)
    with exported(folder) as ready:
        try:
            return upload(ready, repository, private=private)
        except errors.HfHubHTTPError as error:
            raise InputError(f"{repository}: refused by the hub: {refusal(error)}") from error
        except (errors.HTTPError, ConnectionError) as error:  # of the client that huggingface_hub uses
            raise InputError(
                f"{repository}: the hub cannot be reached ({type(error).__name__}); check the network and HF_ENDPOINT"
            ) from error
        except ValueError as error:
            raise InputError(f"{repository}: what answers at HF_ENDPOINT is not a hub") from error


def upload(folder: Path, repository: str, *, private: bool) -> Pushed:
    """Create a repository if there is none, and upload FILES of a folder into it."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    url = api.create_repo(repository, private=private or None, exist_ok=True)
    api.upload_folder(repo_id=url.repo_id, folder_path=folder, allow_patterns=list(FILES), commit_message=MESSAGE)
    return Pushed(str(url), sum(len(list(folder.glob(pattern))) for pattern in FILES))


def refusal(error: Exception) -> str:
    """What the status of an answer means. The answer itself may repeat credentials."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return REFUSALS.get(status or 0, f"status {status}")


@contextmanager
def exported(folder: Path) -> Iterator[Path]:
    """The folder, or an export of it if it has no card."""
    if (folder / CARD).exists():
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / folder.resolve().name
        export_model(folder, out)
        yield out
