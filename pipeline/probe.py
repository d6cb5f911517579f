"""A linear probe: how well a linear classifier tells classes apart by the latents of a few labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from flowvae.data.images import ImageSet
from flowvae.estimates import Estimate, mean_estimate
from flowvae.evaluation import all_indices
from flowvae.model.vae import VAE
from flowvae.randomness import generator

CHUNK = 500  # images that are encoded at once
MOST_ITERATIONS = 2000  # of the fit, which needs about 50


@dataclass(frozen=True)
class LabelledImages:
    """Draws of labelled training images, and the labels of test images.

    Args:
        numbers: of labelled images per class, ascending.
        classes: their labels, shape (classes,).
        draws: positions of training images, shape (classes, largest number) each. The first ones of each row are the
            draw of a smaller number.
        test_labels: shape (N,).
    """

    numbers: Sequence[int]
    classes: np.ndarray
    draws: Sequence[np.ndarray]
    test_labels: np.ndarray


def draw_labelled(
    train_labels: np.ndarray, test_labels: np.ndarray, numbers: Sequence[int], num_draws: int, seed: int
) -> LabelledImages | None:
    """Draw as many images of each class as the smallest class has; None if there are no such classes.

    Args:
        train_labels, test_labels: of all images, shape (M,) and (N,).
        numbers: of images per class; those above the size of the smallest class are left out.
        num_draws: draws of each.
        seed: of the draws.
    """
    classes, counts = np.unique(train_labels, return_counts=True)
    fitting = sorted(number for number in numbers if number <= counts.min())
    if len(classes) < 2 or not fitting or not np.isin(test_labels, classes).all():
        return None
    draws = []
    for i in range(num_draws):
        order = torch.randperm(len(train_labels), generator=generator("cpu", seed, "subset", 2, i)).numpy()
        of_class = [order[train_labels[order] == label][: fitting[-1]] for label in classes]
        draws.append(np.stack(of_class))
    return LabelledImages(fitting, classes, draws, test_labels)


@torch.inference_mode()
def probe(
    vae: VAE, train: ImageSet, test: ImageSet, labelled: LabelledImages, regularization: float, seed: int
) -> dict[int, Estimate]:
    """Accuracy on the test images of logistic regression on latents, by the number of labels per class.

    The latents are the centres of posteriors (`VAE.encode`), each standardised by the labelled images.

    Args:
        vae: the model, on the device of the images.
        train, test: the images.
        labelled: which training images have labels.
        regularization: C of scikit-learn's LogisticRegression, the variance of a normal prior of the weights.
        seed: of the draw of dynamic bits.

    Returns:
        Mean over draws. The squared standard error is that over test images, of the mean over draws, plus the variance
        over draws divided by their number.
    """
    codes = encode(vae, test, all_indices(test), seed)
    accuracies: dict[int, list[np.ndarray]] = {number: [] for number in labelled.numbers}
    for rows in labelled.draws:
        of_rows = encode(vae, train, torch.from_numpy(rows.flatten()).to(train.device), seed).reshape(*rows.shape, -1)
        for number in labelled.numbers:
            some, labels = of_rows[:, :number], np.repeat(labelled.classes, number)
            model = make_pipeline(StandardScaler(), LogisticRegression(C=regularization, max_iter=MOST_ITERATIONS)).fit(
                some.reshape(len(labels), -1), labels
            )
            accuracies[number].append(model.predict(codes) == labelled.test_labels)
    return {number: mean_accuracy(np.stack(correct)) for number, correct in accuracies.items()}


def mean_accuracy(correct: np.ndarray) -> Estimate:
    """Mean and standard error of what was correct, shape (draws, N)."""
    of_images, of_draws = mean_estimate(correct.mean(axis=0)), correct.mean(axis=1)
    luck = of_draws.var(ddof=1) / len(of_draws) if len(of_draws) > 1 else 0.0
    return Estimate(of_images.value, float((of_images.stderr**2 + luck) ** 0.5))


def encode(vae: VAE, images: ImageSet, indices: Tensor, seed: int) -> np.ndarray:
    """Centres of the posteriors of some images, shape (n, D); 0 where they are not finite."""
    dtype, draws = next(vae.parameters()).dtype, generator(images.device, seed, "binarization", 2)
    parts = (images.batch(some, dtype, draws) for some in indices.split(CHUNK))
    codes: np.ndarray = (
        torch.cat([vae.posterior(x).push_loc() for x in parts]).double().nan_to_num(0.0, 0.0, 0.0).cpu().numpy()
    )
    return codes
