"""Record the losses of 20 steps of every flow: python tests/flowvae/training/golden/make.py

Run it after an intended change of training (a default, an initialization, the order of random draws), and check the
difference before committing it. A refactor does not change the losses.
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
    sys.path[:0] = [str(FOLDER.parents[2] / "helpers"), str(FOLDER.parents[3])]
    from examples import GOLDEN_CASES, twenty_losses

    recorded = {name: [round(loss, 9) for loss in twenty_losses(*case)] for name, case in GOLDEN_CASES.items()}
    (FOLDER / "losses.json").write_text(json.dumps(recorded, indent=1) + "\n")
    for name, losses in recorded.items():
        print(f"{name}: from {losses[0]:.3f} to {losses[-1]:.3f} nats")


if __name__ == "__main__":
    main()
