"""Pictures inside pages."""

import base64
import mimetypes
from pathlib import Path

from flowvae.errors import InputError


def data_uri(path: Path) -> str:
    """A picture as a data: URI.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run dvc repro to create it") from error
    media_type, _ = mimetypes.guess_type(path.name)
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
