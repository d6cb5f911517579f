"""Declare the automations of automations.yaml on the Prefect server at PREFECT_API_URL; same names are replaced.

Failures are sent to FLOWVAE_WEBHOOK_URL as {"text": ...}, the format of Slack. The address is stored in an encrypted
Prefect block, and in no file. Without the variable, the block of an earlier call is used; without that block, no
notifications are sent.
"""

import hashlib
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter, Retry
from ruamel.yaml import YAML

from pipeline.workflow.settings import SILENCE

UNAUTHORIZED = requests.codes.unauthorized
BLOCK, WEBHOOK = "flowvae-webhook", "WEBHOOK"
TIMEOUT = 30  # seconds
CHANGES = ("POST", "PATCH", "DELETE")
# A server whose database is busy answers 503 and has done nothing; Prefect's own client also retries then.
RETRY = Retry(connect=0, read=0, status=6, backoff_factor=0.5, status_forcelist=[503], allowed_methods=None)


class Server:
    """Prefect's REST API.

    Args:
        address: such as http://127.0.0.1:4200/api.
        authorization: 'user:password' if the server requires it, else None.
    """

    def __init__(self, address: str, authorization: str | None) -> None:
        self.address, self.session = address.rstrip("/"), requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=RETRY))
        if authorization:
            user, _, password = authorization.partition(":")
            self.session.auth = (user, password)
        self.client = str(uuid.uuid4())  # for which the server issues a token against forged requests

    def request(self, method: str, path: str, content: Any = None) -> Any:
        """Send a request.

        Returns:
            The content of the answer; None if the resource does not exist.

        Raises:
            requests.RequestException: the server does not answer, or refuses the request.
        """
        if method in CHANGES and "Prefect-Csrf-Client" not in self.session.headers:
            self.session.headers.update(self.csrf_headers())
        answer = self.session.request(method, f"{self.address}{path}", json=content, timeout=TIMEOUT)
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def csrf_headers(self) -> dict[str, str]:
        """Headers with which a server that is protected against forged requests accepts changes."""
        token_address = f"{self.address}/csrf-token?client={self.client}"
        answer = self.session.get(token_address, timeout=TIMEOUT)
        headers = {"Prefect-Csrf-Client": self.client}
        if answer.status_code in (requests.codes.not_found, requests.codes.unprocessable):
            return headers  # the server has no such protection
        answer.raise_for_status()
        return headers | {"Prefect-Csrf-Token": answer.json()["token"]}


def main() -> int:
    """Exit code 0, or 1 after one line on standard error."""
    address = os.environ.get("PREFECT_API_URL", "")
    try:
        server = Server(address, os.environ.get("PREFECT_API_AUTH_STRING"))
        block = store_webhook(server, os.environ.get("FLOWVAE_WEBHOOK_URL"))
        declare(server, read_automations(), block)
    except requests.RequestException as error:
        reason, refused = " ".join(str(error).split()), getattr(error.response, "status_code", None) == UNAUTHORIZED
        advice = "set PREFECT_API_AUTH_STRING to the server's login" if refused else "is the server running?"
        print(f"automations: PREFECT_API_URL {address!r}: {reason}; {advice}", file=sys.stderr)
        return 1
    return 0


def read_automations() -> list[dict[str, Any]]:
    """The automations of automations.yaml."""
    text = Path(__file__).with_name("automations.yaml").read_text(encoding="utf-8")
    automations: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(text.replace("SILENCE", str(SILENCE)))
    return automations


def store_webhook(server: Server, address: str | None) -> str | None:
    """Store the address of the webhook in a block, if it is given.

    Returns:
        The id of the block; None if there is no block.
    """
    known = server.request("GET", f"/block_types/slug/webhook/block_documents/name/{BLOCK}")
    if not address:
        return known["id"] if known else None
    data = {"method": "POST", "url": address}
    if known:
        server.request("PATCH", f"/block_documents/{known['id']}", {"data": data})
        return known["id"]
    block_type = server.request("GET", "/block_types/slug/webhook")["id"]
    schemas = {"block_schemas": {"block_type_id": {"any_": [block_type]}}}
    (schema, *_) = server.request("POST", "/block_schemas/filter", schemas)
    document = {"name": BLOCK, "data": data, "block_type_id": block_type, "block_schema_id": schema["id"]}
    return server.request("POST", "/block_documents/", document)["id"]


def declare(server: Server, automations: list[dict[str, Any]], block: str | None) -> None:
    """Create the automations on the server, and delete others of the same names.

    Args:
        server: Prefect's.
        automations: contents of automations.yaml.
        block: id of the block with the webhook; if None, automations that need it are skipped.
    """
    for automation in automations:
        calls = [action for action in automation["actions"] if action.get("block_document_id") == WEBHOOK]
        if calls and not block:
            print(f"automations: {automation['name']} is skipped; set FLOWVAE_WEBHOOK_URL to be notified of failures")
            continue
        for action in calls:
            action["block_document_id"] = block
        # A new automation knows nothing of runs whose last heartbeat is past, so an unchanged automation is kept.
        digest = hashlib.sha256(json.dumps(automation, sort_keys=True).encode()).hexdigest()[:16]
        same_name = {"automations": {"name": {"any_": [automation["name"]]}}}
        known = server.request("POST", "/automations/filter", same_name)
        if not any(digest in old["tags"] for old in known):
            server.request("POST", "/automations/", automation | {"tags": [digest]})
        for old in (old for old in known if digest not in old["tags"]):
            server.request("DELETE", f"/automations/{old['id']}")
        print(f"automations: {automation['name']} is declared")


if __name__ == "__main__":
    sys.exit(main())
