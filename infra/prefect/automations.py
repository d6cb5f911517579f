"""Declare the automations of automations.yaml on the Prefect server at PREFECT_API_URL; same names are replaced.

Failures are sent to FLOWVAE_WEBHOOK_URL as {"text": ...}, the format of Slack. The address is stored in an encrypted
Prefect block, and in no file. Without the variable, the block of an earlier call is used; without that block, no
notifications are sent. An automation that is unchanged is kept, since a new one knows nothing of runs whose last
heartbeat is past; one that the user has paused stays paused.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from ruamel.yaml import YAML

from pipeline.workflow.run import server_problem
from pipeline.workflow.settings import silence

BLOCK, WEBHOOK = "flowvae-webhook", "WEBHOOK"
OWN = {"name", "description", "trigger", "actions"}  # what automations.yaml decides; the rest is the user's


def main() -> int:
    """Exit code 0, or 1 after one line on standard error."""
    address = PREFECT_API_URL.value()
    problem = server_problem() if address else "PREFECT_API_URL: expected the address of a Prefect server, got nothing"
    try:
        if problem is None:
            with get_client(sync_client=True) as client:
                for automation in wanted(stored_webhook(client, os.environ.get("FLOWVAE_WEBHOOK_URL"))):
                    declare(client, automation)
    except httpx.HTTPError as error:
        problem = f"PREFECT_API_URL {address!r}: {' '.join(str(error).split())}"
    if problem:
        print(f"automations: {problem}", file=sys.stderr)
    return int(problem is not None)


def stored_webhook(client: SyncPrefectClient, address: str | None) -> str | None:
    """Store the address of the webhook in a block, if it is given.

    Returns:
        The id of the block; None if there is no block.
    """
    if address:
        return str(Webhook(method="POST", url=address).save(BLOCK, overwrite=True))
    try:
        return str(client.read_block_document_by_name(BLOCK, Webhook.get_block_type_slug()).id)
    except ObjectNotFound:
        return None


def wanted(block: str | None) -> Iterator[Automation]:
    """The automations of automations.yaml.

    Args:
        block: id of the block with the webhook; if None, automations that need it are skipped.
    """
    text = Path(__file__).with_name("automations.yaml").read_text(encoding="utf-8")
    automations: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(text.replace("SILENCE", str(silence())))
    for automation in automations:
        calls = [action for action in automation["actions"] if action.get("block_document_id") == WEBHOOK]
        if calls and not block:
            print(f"automations: {automation['name']} is skipped; set FLOWVAE_WEBHOOK_URL to be notified of failures")
            continue
        for action in calls:
            action["block_document_id"] = block
        yield Automation.model_validate(automation)


def declare(client: SyncPrefectClient, automation: Automation) -> None:
    """Create the automation on the server, or change the one of its name unless it is the same."""
    known, *others = client.read_automations_by_name(automation.name) or [None]
    if known is None:
        automation.create()
    elif known.model_dump(include=OWN) != automation.model_dump(include=OWN):
        automation.id, automation.enabled, automation.tags = known.id, known.enabled, known.tags
        automation.update()
    for other in others:
        client.delete_automation(other.id)
    print(f"automations: {automation.name} is declared")


if __name__ == "__main__":
    sys.exit(main())
