"""Settings of Prefect that runs, servers and automations share. Importing this module does not import Prefect."""

import os
import secrets
from pathlib import Path

from pipeline.listing import working_in

PROJECT = Path(__file__).parents[2]

# SQLite is slow, and a temporary server starts slowly, while trainings use all cores. Without a network, a server that
# sends usage statistics prints errors.
SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def silence() -> int:
    """Seconds without a heartbeat of a run, after which it is dead.

    How often runs send heartbeats is set in pyproject.toml, which Prefect reads in the working folder of each run.
    """
    from prefect.settings import Settings

    with working_in(PROJECT):
        frequency = Settings().flows.heartbeat_frequency
    assert frequency is not None
    return 3 * frequency


def guarded(address: str, login: str) -> dict[str, str]:
    """Settings of a server that answers only to its owner, and of its clients.

    Args:
        address: of the server, such as http://127.0.0.1:4200; only pages from there may call its API.
        login: 'user:password'.
    """
    return {
        "PREFECT_SERVER_API_AUTH_STRING": login,
        "PREFECT_API_AUTH_STRING": login,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
    }


def kept_login(path: Path) -> str:
    """The 'user:password' in a file that only its owner can read.

    It is random, and made at the first call. A file that is empty or that others can read is replaced.

    Raises:
        OSError: the file cannot be read or written.
    """
    if path.is_file() and not path.stat().st_mode & 0o077 and (login := path.read_text(encoding="utf-8").strip()):
        return login
    login = f"flowvae:{secrets.token_urlsafe(24)}"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # whoever has opened the old file does not see the new login
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f"{login}\n")
    return login
