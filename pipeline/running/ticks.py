"""How far a stage is and what it has reached, from its output, for the process that shows it to people.

A stage that is watched prints a line of JSON several times a second, which people do not see. Of other lines, the
counts that each stage prints now and then are understood.
"""

import json
import os
import re
from dataclasses import asdict, dataclass

WATCHED = "FLOWVAE_WATCHED"  # in the environment of a stage: print ticks
MARK = "@tick "  # a worker of Ray's may have its name before it
SECONDS_BETWEEN_TICKS = 0.5
COUNTS = re.compile(r"\b(epoch|step|trial|image)s? (\d+)/(\d+)\b")
SCORES = re.compile(r"(-ELBO \d[\d,.]* ± \S+)(?: +(NLL \d[\d,.]* ± \S+))?")


@dataclass(frozen=True)
class Tick:
    """How far a stage is.

    Args:
        done: what is finished.
        total: of all there is to do.
        unit: what is counted: epoch, step, trial or image.
        images_per_second: throughput; None if it is not known.
        negative_elbo: on validation after the last epoch, in nats per image; None if it is not known.
    """

    done: int
    total: int
    unit: str
    images_per_second: float | None = None
    negative_elbo: float | None = None

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total)


def is_watched() -> bool:
    """Whether the process that reads the output of this one wants ticks."""
    return WATCHED in os.environ


def print_tick(tick: Tick) -> None:
    """Print a tick as one line."""
    print(f"{MARK}{json.dumps(asdict(tick))}", flush=True)


def is_tick(line: str) -> bool:
    """Whether a line of output is a tick, and nothing for people."""
    return MARK in line


def read_tick(line: str) -> Tick | None:
    """The tick that a line of output is, or one with the last of its counts: 'epoch 2/5', 'trials 3/9'; else None."""
    _, mark, content = line.partition(MARK)
    if mark:
        try:
            return Tick(**json.loads(content))
        except (ValueError, TypeError):  # another process has printed into the line
            return None
    counts = COUNTS.findall(line)
    unit, done, total = counts[-1] if counts else ("", 0, 0)
    return Tick(int(done), int(total), unit) if int(total) else None


def read_scores(line: str) -> str | None:
    """The scores that a line of output reports, such as '-ELBO 94.29 ± 0.25, NLL 90.19 ± 0.27'; else None."""
    match = SCORES.search(line)
    return ", ".join(filter(None, match.groups())) if match else None
