"""The schema of `training` in params.yaml."""

from flowvae.config import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ProperFraction
from flowvae.model.objectives import Objective
from flowvae.training.precision import Precision
from flowvae.training.schedules import KLWarmup, Schedule


class TrainingConfig(Config):
    """Settings of one run.

    Attributes:
        epochs: number of passes over the training images.
        min_steps: minimum number of steps; on a small data set, epochs are added to reach it.
        patience: number of epochs without a better validation loss after which the run ends; 0 for no limit.
        batch_size: number of images in a global batch, over all workers.
        accumulation_steps: number of parts of a batch whose gradients are added up, to save memory.
        objective: ELBO or importance-weighted bound.
        num_samples: number of draws of z per image: the ELBO is averaged over them, the bound is computed from them.
        free_nats: lower limit of the mean KL term of a batch, in nats per image; below it the KL term has no gradient.
        kl_warmup: schedule of the weight of the KL term.
        learning_rate: the highest.
        final_learning_rate: at the end of the schedule.
        schedule: of the learning rate.
        weight_decay: of AdamW.
        max_grad_norm: gradients with a larger norm are scaled down to it.
        average_decay: of the exponential moving average of the weights; 0 for no average.
        max_halvings: number of times that a run may repeat an epoch with half the learning rate, because its loss
            was not finite.
        precision: of the networks' forward passes.
        compile: whether to compile the model with torch.compile.
    """

    epochs: PositiveInt
    min_steps: NonNegativeInt
    patience: NonNegativeInt
    batch_size: PositiveInt
    accumulation_steps: PositiveInt
    objective: Objective
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
