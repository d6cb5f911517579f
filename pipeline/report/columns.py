"""The one table of metric columns: what results.csv, the checks, the tables and the figures show of each metric."""

from collections.abc import Mapping
from dataclasses import dataclass

ABSENT = "–"


@dataclass(frozen=True)
class MetricColumn:
    """A metric of metrics/*.json.

    Args:
        name: of the metric.
        heading: in tables.
        format: of a cell.
        error: name of its standard error, shown after ±.
        only_eight_bit: whether it is shown for 8-bit images only.
        derived: whether the table computes it, so that it is in no file.
        show_spread: whether cells show the standard deviation over seeds.
    """

    name: str
    heading: str
    format: str
    error: str | None = None
    only_eight_bit: bool = False
    derived: bool = False
    show_spread: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns in results.csv."""
        return (self.name,) if self.error is None else (self.name, self.error)

    def cell(self, values: Mapping[str, float], spread: float | None = None) -> str:
        """Text of a cell.

        Args:
            values: by name; of the reference, without the gains.
            spread: standard deviation over seeds; None for a single seed.
        """
        if self.name not in values:
            return ABSENT
        text = self.format.format(values[self.name])
        if self.error:
            text += " ± " + self.format.replace("+", "").format(values[self.error])
        if self.show_spread and spread is not None:
            text += f" (sd {spread:.2f})"
        return text


BOUND_GAIN, NLL_GAIN = "negative_elbo_gain", "nll_gain"  # of the reference minus that of the row
COLUMNS = (
    MetricColumn("reconstruction_nats", "−log p(x|z)", "{:.2f}"),
    MetricColumn("kl_nats", "KL", "{:.2f}"),
    MetricColumn("negative_elbo_nats", "−ELBO", "{:.2f}", error="negative_elbo_stderr", show_spread=True),
    MetricColumn(BOUND_GAIN, "gain in −ELBO", "{:+.2f}", error=f"{BOUND_GAIN}_stderr", derived=True),
    MetricColumn("nll_nats", "NLL", "{:.2f}", error="nll_stderr"),
    MetricColumn(NLL_GAIN, "gain in NLL", "{:+.2f}", error=f"{NLL_GAIN}_stderr", derived=True),
    MetricColumn("active_units", "active units", "{:g}"),
    MetricColumn("parameters", "parameters", "{:,.0f}"),
    MetricColumn(
        "negative_elbo_bits_per_dim",
        "−ELBO, bits/dim",
        "{:.3f}",
        error="negative_elbo_bits_per_dim_stderr",
        only_eight_bit=True,
    ),
    MetricColumn("nll_bits_per_dim", "NLL, bits/dim", "{:.3f}", error="nll_bits_per_dim_stderr", only_eight_bit=True),
)
BY_NAME = {column.name: column for column in COLUMNS}
REPORTED_METRICS = tuple(name for column in COLUMNS if not column.derived for name in column.names)


def shown(*, eight_bit: bool) -> list[MetricColumn]:
    """The columns of the table of variants."""
    return [column for column in COLUMNS if eight_bit or not column.only_eight_bit]
