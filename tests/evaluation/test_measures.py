"""One table says how metrics are written; tables, figures and comparisons go by it."""

from collections.abc import Callable

import pandas as pd
import pytest

from avse.evaluation import store, tables
from avse.evaluation.comparison import compare
from avse.evaluation.figures import metrics_figure
from avse.evaluation.measures import MEASURES, Measure, measure
from avse.evaluation.metrics import METRICS, OPTIONAL_METRICS
from avse.evaluation.outcomes import outcomes
from avse.evaluation.results_report import tables as report_tables
from avse.evaluation.results_report.page import report_of
from avse.evaluation.results_report.summary import summarized
from avse.evaluation.results_report.worst import worst_mixtures
from avse.evaluation.scores import Score
from avse.evaluation.summary import means_table

Make = Callable[..., pd.DataFrame]


def test_every_metric_has_an_entry_in_the_order_of_the_columns() -> None:
    assert list(MEASURES) == [*METRICS, *OPTIONAL_METRICS]
    assert list(MEASURES)[: len(store.METRIC_NAMES)] == list(store.METRIC_NAMES)


def test_a_metric_that_has_none_is_written_by_its_name() -> None:
    assert measure("word_error_rate") == Measure("word error rate", "", 3)


@pytest.mark.parametrize(("value", "text", "plain"), [(1.0, "+1.00", "1.00"), (float("nan"), "–", "–")])
def test_values(value: float, text: str, plain: str) -> None:
    assert (MEASURES["sdr"].text(value), MEASURES["sdr"].plain(value)) == (text, plain)


def test_titles_and_digits_are_those_of_the_table_everywhere(
    made_results: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEASURES, "si_sdr", Measure("RATIO", "Np", 5))
    values = dict.fromkeys(METRICS, 0.0)
    markdown = tables.markdown_table([Score("a", "x", 0.0, 0, "s", values, {**values, "si_sdr": 2.0})])
    assert "RATIO (Np) / PESQ-wb (MOS) / STOI" in markdown
    assert "+2.00000 / +0.00" in markdown
    figure = metrics_figure({"noisy": {"si_sdr": 1.0}, "enhanced": {"si_sdr": 2.0}})
    assert figure.axes[0].get_title() == "RATIO (Np)"
    table = made_results(speakers=2, clips=2, noises=["x"], levels=[0.0])
    assert "RATIO (Np)" in means_table(table)
    overall = report_tables.tables(summarized(outcomes(table)))[0]
    assert "RATIO (Np)" in overall.head
    assert len(overall.rows[0][overall.head.index("RATIO (Np)")].split()[0].partition(".")[2]) == 5


def test_lower_values_are_better_where_the_table_says_so(
    made_results: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One system has 3 dB more of a metric: it is better, and with the other direction worse."""
    table = made_results({"a:auto": 0.0, "b:auto": 3.0}, speakers=8, clips=2, noises=["x"], levels=[0.0])
    above = compare(table, model="b", baseline="a")
    assert above.differences["si_sdr"].verdict == "better"
    assert above.losses(["si_sdr"]) == []
    best = worst_mixtures(outcomes(table))[0][0].improvement
    monkeypatch.setitem(MEASURES, "si_sdr", Measure("SI-SDR", "dB", 2, higher_is_better=False))
    below = compare(table, model="b", baseline="a")
    assert below.differences["si_sdr"].verdict == "worse"
    assert above.differences["si_sdr"].win_rate == 1 - below.differences["si_sdr"].win_rate
    assert below.losses(["si_sdr"]) == ["si_sdr"]
    assert " worse in SI-SDR" in below.sentence("si_sdr")
    assert " better in SI-SDR" in compare(table, model="a", baseline="b").sentence("si_sdr")
    assert worst_mixtures(outcomes(table))[0][0].improvement != best
    assert "lower for\nSI-SDR" in report_of(outcomes(table)).page
