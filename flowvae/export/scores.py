"""Scores of a model in words."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LABELS = {"reconstruction": "−log p(x|z)", "kl": "KL", "negative_elbo": "−ELBO", "nll": "NLL"}
# Endings of the names of a score and of its standard error, by unit.
UNITS = {
    "nats per image": ("_nats", "_stderr", 2),
    "bits per dimension": ("_bits_per_dim", "_bits_per_dim_stderr", 4),
}
COUNTS = {"active_units": "active units (dimensions of z that depend on the image)"}
LEFT_OUT = ("parameters",)  # which are in the table of the model


class Score(NamedTuple):
    """A mean over test images.

    Attributes:
        name: in the file of metrics, without the unit.
        values: with standard errors or None, by unit.
    """

    name: str
    values: dict[str, tuple[float, float | None]]

    @property
    def label(self) -> str:
        return LABELS.get(self.name, self.name)

    def text(self, unit: str) -> str:
        """Value ± standard error in a unit; empty if it was not measured in it."""
        if unit not in self.values:
            return ""
        (value, error), digits = self.values[unit], UNITS[unit][2]
        return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def score_table(metrics: Mapping[str, Any]) -> Iterator[Score]:
    """The scores in a file of metrics."""
    names = dict.fromkeys(
        name.removesuffix(ending) for name in metrics for ending, _, _ in UNITS.values() if name.endswith(ending)
    )
    for name in names:
        yield Score(
            name,
            {
                unit: (metrics[f"{name}{ending}"], metrics.get(f"{name}{error}"))
                for unit, (ending, error, _) in UNITS.items()
                if f"{name}{ending}" in metrics
            },
        )


def other_scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What else there is in a file of metrics, in words."""
    named = {
        f"{score.name}{ending}" for score in score_table(metrics) for pair in UNITS.values() for ending in pair[:2]
    }
    return {COUNTS.get(name, name): value for name, value in metrics.items() if name not in {*named, *LEFT_OUT}}


def accuracy_text(error: float | None) -> str:
    """The standard error of a score, as the end of its name."""
    return "" if error is None else f", standard error {error:g}"


def protocol_text(protocol: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """How scores were obtained."""
    evaluation = protocol.get("evaluation")
    if not evaluation:
        return "± is one standard error over test images. How many draws there were is not recorded."
    return (
        f"± is one standard error over the {test['shape'][0]:,} test images. −ELBO and its terms: "
        f"{evaluation['num_elbo_samples']} draws of z per image, all test images. NLL: importance sampling with "
        f"{evaluation['num_importance_samples']:,} draws (arXiv:1509.00519, equation 8); its gap to −ELBO is measured "
        f"on {evaluation['num_nll_images']:,} random test images. Seed of the evaluation: {evaluation['seed']}."
    )
