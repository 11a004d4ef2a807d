"""How metrics are written in tables, figures and sentences: name, unit, decimal places and direction."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measure:
    """How a metric is written.

    Attributes:
        name: for people.
        unit: empty for a number without one.
        digits: decimal places.
        higher_is_better: whether a larger value is the better one.
    """

    name: str
    unit: str
    digits: int
    higher_is_better: bool = True

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def sign(self) -> int:
        """1 where a larger value is better, -1 where a smaller one is."""
        return 1 if self.higher_is_better else -1

    def plain(self, value: float) -> str:
        """The value with its decimal places; a dash where it is undefined."""
        return f"{value:.{self.digits}f}" if np.isfinite(value) else "–"

    def text(self, value: float) -> str:
        """The value with its sign, for differences; a dash where it is undefined."""
        return f"{value:+.{self.digits}f}" if np.isfinite(value) else "–"


MEASURES = {
    "si_sdr": Measure("SI-SDR", "dB", 2),
    "sdr": Measure("SDR", "dB", 2),
    "pesq_wb": Measure("PESQ-wb", "MOS", 2),
    "pesq_nb": Measure("PESQ-nb", "MOS", 2),
    "stoi": Measure("STOI", "", 3),
    "estoi": Measure("ESTOI", "", 3),
    "dnsmos": Measure("DNSMOS", "MOS", 2),
}
"""The metrics of `avse.evaluation.metrics` by name, in the order of tables."""


def measure(metric: str) -> Measure:
    """How a metric is written; one that is not in `MEASURES` by its name, and higher is better."""
    return MEASURES.get(metric, Measure(metric.replace("_", " "), "", 3))
