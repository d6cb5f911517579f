"""The schema of `training` in params.yaml."""

from typing import Literal

from flowvae.config import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ProperFraction
from flowvae.precision import Precision
from flowvae.schedules import KLWarmup, Schedule


class TrainingConfig(Config):
    """One optimization run; `batch_size` is that of the global batch.

    It lasts `epochs`, or as many more as give `min_steps`, so that a small data set is not left with a
    handful of steps; it ends early after `patience` epochs without a better validation (0: never).
    The objective is the ELBO, its mean over `num_samples` draws, or the importance-weighted bound on as many.
    """

    epochs: PositiveInt
    min_steps: NonNegativeInt
    patience: NonNegativeInt
    batch_size: PositiveInt
    accumulation_steps: PositiveInt
    objective: Literal["elbo", "importance_weighted"]
    num_samples: PositiveInt
    free_nats: NonNegativeFloat
    kl_warmup: KLWarmup
    learning_rate: PositiveFloat
    final_learning_rate: NonNegativeFloat
    schedule: Schedule
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat
    average_decay: ProperFraction
    max_halvings: NonNegativeInt
    precision: Precision
    compile: bool
