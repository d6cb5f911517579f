"""Announce to Ray that this spot machine is about to be reclaimed: python -m pipeline.distributed.spot HEAD:PORT.

EC2 gives two minutes' notice in the metadata of the machine (IMDSv2), and Ray does not read it. Once Ray knows, it
starts nothing more here, and runs of several workers write a checkpoint (`RayCheckpoints`). infra/cluster.yaml starts
this program on each worker. On a machine that is no spot machine there is never a notice.
"""

import argparse
import json
import subprocess
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone

METADATA = "http://169.254.169.254/latest"
POLL_SECONDS = 5  # as AWS recommends
TIMEOUT = 2  # seconds
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main() -> None:
    """Wait for the notice, and announce it."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.distributed.spot", description=__doc__)
    parser.add_argument("address", help="HOST:PORT of the cluster's head")
    parser.add_argument("--node-id", help="the node that leaves; default: that of this machine")
    parser.add_argument("--metadata", default=METADATA, help=f"address of the metadata; default: {METADATA}")
    options = parser.parse_args()
    while (deadline := notice(options.metadata)) is None:
        time.sleep(POLL_SECONDS)
    seconds = max(1, int((deadline - datetime.now(timezone.utc)).total_seconds()))
    print(f"spot: this machine is reclaimed in {seconds} s", flush=True)
    node = ["--node-id", options.node_id] if options.node_id else []
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the spot machine is reclaimed"]
    drain = ["ray", "drain-node", "--address", options.address, *node, *reason]
    subprocess.run([*drain, "--deadline-remaining-seconds", str(seconds)], check=True)


def notice(metadata: str) -> datetime | None:
    """When this machine will be stopped; None as long as nothing is announced, or if there are no metadata."""
    try:
        token = request(f"{metadata}/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        header = {"X-aws-ec2-metadata-token": token}
        action = json.loads(request(f"{metadata}/meta-data/spot/instance-action", "GET", header))
    except (urllib.error.URLError, TimeoutError, ConnectionError):  # 404 without a notice
        return None
    return datetime.strptime(action["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


def request(address: str, method: str, headers: dict[str, str]) -> str:
    """The answer of the metadata service."""
    message = urllib.request.Request(address, method=method, headers=headers)
    with DIRECT.open(message, timeout=TIMEOUT) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    main()
