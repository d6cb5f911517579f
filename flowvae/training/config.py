"""Settings of training: `training` in params.yaml, and the keywords of `flowvae.fit`."""

from flowvae.config import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ProperFraction
from flowvae.model.objectives import Objective
from flowvae.training.precision import Precision
from flowvae.training.schedules import CosineSchedule, KLWarmup, Schedule


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
            In a hierarchy it is that of each level.
        kl_warmup: schedule of the weight of the KL term.
        learning_rate: the highest.
        final_learning_rate: at the end of the schedule.
        schedule: of the learning rate.
        weight_decay: of AdamW.
        max_grad_norm: gradients with a larger norm are scaled down to it.
        average_decay: of the exponential moving average of the weights, once there were many steps; 0 for no average.
        max_halvings: number of times that a run may repeat an epoch with half the learning rate, because its loss
            was not finite.
        precision: of the networks' forward passes.
        compile: whether to compile the model with torch.compile.
    """

    epochs: PositiveInt
    min_steps: NonNegativeInt = 0
    patience: NonNegativeInt = 0
    batch_size: PositiveInt = 96
    accumulation_steps: PositiveInt = 1
    objective: Objective = "elbo"
    num_samples: PositiveInt = 1
    free_nats: NonNegativeFloat = 0.0
    kl_warmup: KLWarmup = KLWarmup()
    learning_rate: PositiveFloat = 6.0e-3
    final_learning_rate: NonNegativeFloat = 2.0e-5
    schedule: Schedule = CosineSchedule()
    weight_decay: NonNegativeFloat = 0.01
    max_grad_norm: PositiveFloat = 100.0
    average_decay: ProperFraction = 0.0
    max_halvings: NonNegativeInt = 0
    precision: Precision = "float32"
    compile: bool = False
