"""Hide credentials in text that is logged or shown: in URLs, in headers, and the values of secret-looking variables."""

import os
import re
from collections.abc import Mapping
from functools import cache
from urllib.parse import quote

HIDDEN = "***"
MIN_LENGTH = 6  # of a value that is hidden; shorter ones are in every text
SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW(OR)?D|PASSPHRASE|CREDENTIAL|AUTH_STRING|(API|ACCESS|PRIVATE|ACCOUNT|SAS)_?KEY|WEBHOOK_URL"
)
NO_SECRET_NAME = re.compile(r"(_PATH|_FILE|_DIR|_MODE|_ENABLED|_URI)$")  # where a secret is, not what it is
PATTERNS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?!git@)[^\s/'\"<>]+@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (
        re.compile(
            r"([?&;](?:[\w-]*(?:token|secret|password|signature|credential)[\w-]*|(?:api|access|secret)_?key|sig)=)"
            r"[^\s&;'\"<>]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(\bauthorization\b['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)[^\s'\"]+", re.IGNORECASE),
     rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16})\b"), HIDDEN),
)  # fmt: skip


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with *** in place of credentials.

    Args:
        text: of a log, or of a message.
        environment: the variables, of which those with a name like AWS_SECRET_ACCESS_KEY are hidden; default: those of
            this process at the first call.
    """
    for value in own_secrets() if environment is None else secret_values(environment):
        text = text.replace(value, HIDDEN)
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text


@cache
def own_secrets() -> list[str]:
    """The values to hide of this process."""
    return secret_values(os.environ)


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The values to hide, as they are and as they are written in a URL, longest first."""
    values = {value.strip() for name, value in environment.items() if names_secret(name)}
    values = {value for value in values if len(value) >= MIN_LENGTH}
    return sorted(values | {quote(value, safe="") for value in values}, key=len, reverse=True)


def names_secret(name: str) -> bool:
    """Whether the value of a variable with this name is a credential."""
    return bool(SECRET_NAME.search(name.upper())) and not NO_SECRET_NAME.search(name.upper())


def holds_secret(name: str, value: str) -> bool:
    """Whether a variable is a credential, or a URL with one in it."""
    return names_secret(name) or redact(value, {}) != value
