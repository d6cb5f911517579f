"""Declare the automations of automations.yaml on the Prefect server at PREFECT_API_URL, in place of those of that name.

FLOWVAE_WEBHOOK_URL is where failures are told (it gets {"text": ...}, as Slack and its kin expect). It is kept in a
Prefect block, encrypted, and in no file; without it and without an earlier block, failures are told to nobody.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter, Retry
from ruamel.yaml import YAML

BLOCK, WEBHOOK = "flowvae-webhook", "WEBHOOK"
SECONDS = 30
# A database that is busy answers 503 and has done nothing; Prefect's own client asks again too.
BUSY = Retry(connect=0, read=0, status=6, backoff_factor=0.5, status_forcelist=[503], allowed_methods=None)


class Server:
    """Prefect's REST API.

    Args:
        address: like http://127.0.0.1:4200/api.
        authorization: 'user:password' of a server that asks for it, or nothing.
    """

    def __init__(self, address: str, authorization: str | None) -> None:
        self.address, self.session = address.rstrip("/"), requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=BUSY))
        if authorization:
            self.session.auth = tuple(authorization.split(":", 1))

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """The answer, None if nothing is there.

        Raises:
            requests.RequestException: the server does not answer, or refuses.
        """
        answer = self.session.request(method, f"{self.address}{path}", json=content, timeout=SECONDS)
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        return answer.json() if answer.content else None


def main() -> int:
    address = os.environ.get("PREFECT_API_URL", "")
    try:
        server = Server(address, os.environ.get("PREFECT_API_AUTH_STRING"))
        block = keep_webhook(server, os.environ.get("FLOWVAE_WEBHOOK_URL"))
        content = YAML(typ="safe", pure=True).load(Path(__file__).with_name("automations.yaml").read_text())
        declare(server, content, block)
    except requests.RequestException as error:
        reason = " ".join(str(error).split())
        print(f"automations: PREFECT_API_URL {address!r}: {reason}; is the server up?", file=sys.stderr)
        return 1
    return 0


def keep_webhook(server: Server, address: str | None) -> str | None:
    """The id of the block with the webhook's address, which is put into it if given; None if there is no block."""
    known = server.ask("GET", f"/block_types/slug/webhook/block_documents/name/{BLOCK}")
    if not address:
        return known["id"] if known else None
    data = {"method": "POST", "url": address}
    if known:
        server.ask("PATCH", f"/block_documents/{known['id']}", {"data": data})
        return known["id"]
    kind = server.ask("GET", "/block_types/slug/webhook")["id"]
    (schema, *_) = server.ask("POST", "/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})
    document = {"name": BLOCK, "data": data, "block_type_id": kind, "block_schema_id": schema["id"]}
    return server.ask("POST", "/block_documents/", document)["id"]


def declare(server: Server, automations: list[dict[str, Any]], block: str | None) -> None:
    for automation in automations:
        calls = [action for action in automation["actions"] if action.get("block_document_id") == WEBHOOK]
        if calls and not block:
            print(f"automations: {automation['name']} is left out; set FLOWVAE_WEBHOOK_URL to be told of failures")
            continue
        for action in calls:
            action["block_document_id"] = block
        # A new automation knows nothing of runs whose last sign of life is past, so one that is as declared stays.
        content = hashlib.sha256(json.dumps(automation, sort_keys=True).encode()).hexdigest()[:16]
        same_name = {"automations": {"name": {"any_": [automation["name"]]}}}
        known = server.ask("POST", "/automations/filter", same_name)
        if not any(content in old["tags"] for old in known):
            server.ask("POST", "/automations/", automation | {"tags": [content]})
        for old in (old for old in known if content not in old["tags"]):
            server.ask("DELETE", f"/automations/{old['id']}")
        print(f"automations: {automation['name']} is declared")


if __name__ == "__main__":
    sys.exit(main())
