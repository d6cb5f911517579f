"""The learning rate and the weight of the KL term as functions of the step."""

import math
from typing import Annotated, Literal

from pydantic import Field

from flowvae.config import Config, Fraction, NonNegativeFloat, NonNegativeInt


class CosineSchedule(Config):
    """Linear warm-up over `warmup_steps`, a plateau until `decay_start` (a fraction of all steps), then a cosine."""

    name: Literal["cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 200
    decay_start: Fraction = 0.25

    def factors(self, step: int, num_steps: int) -> tuple[float, float]:
        """Factors of the learning rate at a step, counted from 0, of a run of `num_steps`.

        Returns:
            The warm-up factor, and the position between the final (0) and the highest (1) learning rate.
        """
        start = self.decay_start * num_steps
        progress = max(0.0, (step - start) / max(1.0, num_steps - start))
        return min(1.0, (step + 1) / (self.warmup_steps + 1)), half_cosine(progress)


class OneCycleSchedule(Config):
    """Half a cosine up from `start` (a fraction of the highest rate) until `peak`, half a cosine down from there.

    Smith & Topin 2019, arXiv:1708.07120, with cosines in place of straight lines. `peak` is a fraction of all steps.
    """

    name: Literal["one_cycle"] = "one_cycle"
    start: Fraction = 0.04
    peak: Fraction = 0.3

    def factors(self, step: int, num_steps: int) -> tuple[float, float]:
        """Factors of the learning rate at a step, counted from 0, of a run of `num_steps`.

        Returns:
            The warm-up factor, and the position between the final (0) and the highest (1) learning rate.
        """
        peak = self.peak * num_steps
        if step < peak:
            return self.start + (1 - self.start) * half_cosine(1 - step / peak), 1.0
        return 1.0, half_cosine((step - peak) / max(1.0, num_steps - peak))


Schedule = Annotated[CosineSchedule | OneCycleSchedule, Field(discriminator="name")]


class KLWarmup(Config):
    """The weight of the KL term rises linearly from near 0 to 1.

    Attributes:
        length: duration of the rise, in `unit`; 0 for none.
        unit: the whole run, epochs or steps.
    """

    length: NonNegativeFloat = 0.1
    unit: Literal["run", "epochs", "steps"] = "run"

    def weight(self, step: int, num_steps: int, steps_per_epoch: int) -> float:
        """Weight at a step, counted from 0."""
        steps = self.length * {"run": num_steps, "epochs": steps_per_epoch, "steps": 1}[self.unit]
        return min(1.0, (step + 1) / steps) if steps else 1.0


def learning_rate(step: int, num_steps: int, schedule: Schedule, highest: float, final: float) -> float:
    """Learning rate at a step, counted from 0, of a run of `num_steps`."""
    warmup, height = schedule.factors(step, num_steps)
    return warmup * (final + (highest - final) * height)


def half_cosine(progress: float) -> float:
    """Half a cosine that falls from 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))
