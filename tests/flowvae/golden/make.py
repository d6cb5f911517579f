"""Record the losses of 20 steps of every flow: python tests/flowvae/golden/make.py

Run it after a change that is meant to change training (a default, an initialization, the order of
random draws), and look at the difference before committing it. A refactor changes nothing here.
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
    sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parents[2])]
    from examples import FLOW_SETTINGS, twenty_losses

    recorded = {family: [round(loss, 9) for loss in twenty_losses(family)] for family in FLOW_SETTINGS}
    (FOLDER / "losses.json").write_text(json.dumps(recorded, indent=1) + "\n")
    for family, losses in recorded.items():
        print(f"{family}: from {losses[0]:.3f} to {losses[-1]:.3f} nats")


if __name__ == "__main__":
    main()
