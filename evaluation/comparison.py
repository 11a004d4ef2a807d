"""Paired comparison of two systems, in two runs or in one: differences on the mixtures that both enhanced.

The noisy recording is the same for both, so that a difference of improvements is one of enhanced speech. A
paired difference is free of what makes mixtures easy or hard; what is left varies between speakers, which are
resampled (`avse.evaluation.statistics`). `avse.evaluation.measures` says which way a metric is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avse.data.errors import InputError
from avse.evaluation.measures import Measure, measure
from avse.evaluation.outcomes import Outcomes, outcomes
from avse.evaluation.statistics import CONFIDENCE, cluster_means, clustering, win_rate
from avse.evaluation.store import DONE, NO_LIPS

if TYPE_CHECKING:
    import pandas as pd

_SURE = f"{100 * CONFIDENCE:g} %"
SAME_SOUND = 0.05  # dB of SI-SDR between two computations for one noisy recording


@dataclass(frozen=True)
class Difference:
    """One metric of the system minus that of the baseline, on the same mixtures.

    Attributes:
        metric: its name.
        mean, lower, upper: of the differences, in the metric's unit; the ends of the interval are NaN with
            too few speakers or clips.
        pairs: pairs for which the metric of both is defined.
        undefined: pairs for which it is not.
        win_rate: share of pairs in which the system is better, ties counted as halves.
    """

    metric: str
    mean: float
    lower: float
    upper: float
    pairs: int
    undefined: int
    win_rate: float

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where the interval leaves 0 out, "alike" where not, "unknown" without one."""
        if not np.isfinite([self.lower, self.upper]).all():
            return "unknown"
        low, high = sorted(measure(self.metric).sign * end for end in (self.lower, self.upper))
        return "better" if low > 0 else "worse" if high < 0 else "alike"


@dataclass(frozen=True)
class Comparison:
    """A system compared with a baseline.

    Attributes:
        system, baseline: their names.
        differences: of every metric by name.
        pairs: pairs of rows that both enhanced.
        mixtures: different mixtures among them; with several kinds of lips they have several pairs.
        lips: kinds of lips of the system.
        speakers: number of speakers, 0 where they are unknown.
        clustered_by: what was resampled: "speaker", "clip" or "mixture".
        notes: sentences on what was left out, and on the intervals.
        failures: rows that the system failed to enhance and the baseline did not.
    """

    system: str
    baseline: str
    differences: Mapping[str, Difference]
    pairs: int
    mixtures: int
    lips: tuple[str, ...]
    speakers: int
    clustered_by: str
    notes: tuple[str, ...]
    failures: int

    def sentence(self, metric: str) -> str:
        """What was found for one metric.

        Raises:
            InputError: the metric was not measured.
        """
        own = self._difference(metric)
        how, on = measure(metric), self._on(own)
        if own.pairs == 0:
            return f"{how.name} is undefined in all {self.pairs} pairs of {self.system} and {self.baseline}."
        size = _amount(own.mean, how)
        way = "better" if how.sign * own.mean >= 0 else "worse"
        if own.verdict == "unknown":
            few = f"too few {self.clustered_by}s for an interval"
            return f"{self.system} is {size} {way} in {how.name} than {self.baseline} {on} ({few})."
        if own.mean == own.lower == own.upper == 0:
            return f"{self.system} and {self.baseline} are equal in {how.name} {on}."
        if own.verdict == "alike":
            return (
                f"{self.system} and {self.baseline} do not differ significantly in {how.name} {on} "
                f"(difference {_signed(own.mean, how)}, {_SURE} interval {_range(own, how)})."
            )
        if own.verdict == "better":
            ends = sorted((abs(own.lower), abs(own.upper)))
            interval = f"{_SURE} interval {how.plain(ends[0])} to {how.plain(ends[1])}"
        else:
            interval = f"{_SURE} interval of the difference {_range(own, how)}"
        return f"{self.system} is {size} {way} in {how.name} than {self.baseline} {on} ({interval})."

    def sentences(self) -> tuple[str, ...]:
        """What was found, a sentence for every metric, and the notes."""
        return (*(self.sentence(metric) for metric in self.differences), *self.notes)

    def losses(self, metrics: Sequence[str]) -> list[str]:
        """Those of the metrics in which the system is significantly worse, each at 95 %.

        Raises:
            InputError: a metric was not measured, or there is no interval to judge by.
        """
        for metric in metrics:
            if self._difference(metric).verdict == "unknown":
                raise InputError(
                    f"{measure(metric).name} of {self.system} and {self.baseline} cannot be judged: "
                    f"{self._difference(metric).pairs} defined pairs of too few {self.clustered_by}s"
                )
        return [metric for metric in metrics if self.differences[metric].verdict == "worse"]

    def _difference(self, metric: str) -> Difference:
        if metric not in self.differences:
            raise InputError(f"no metric {metric!r} in both runs; there are {', '.join(self.differences)}")
        return self.differences[metric]

    def _on(self, own: Difference) -> str:
        what = f"{own.pairs} {'mixture' if own.pairs == 1 else 'mixtures'}"
        if self.mixtures != self.pairs:
            what = f"{own.pairs} pairs ({self.mixtures} mixtures, lips {' and '.join(self.lips)})"
        people = f" of {self.speakers} {'speaker' if self.speakers == 1 else 'speakers'}"
        return f"on {what}{people if self.speakers else ''}"


def compare(
    a: "str | Path | pd.DataFrame | Outcomes",
    b: "str | Path | pd.DataFrame | Outcomes | None" = None,
    *,
    model: str | None = None,
    baseline: str | None = None,
    lips: str | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare a system of run b with a baseline of run a; without b, two systems of run a.

    Args:
        a: folder of the baseline's run, or its table.
        b: folder or table of the other run.
        model: the system, MODEL or MODEL:ALGORITHM; needed where a run has several.
        baseline: the baseline, named likewise; default the same system as `model` in the other run.
        lips: compare with these lips only; default all.
        seed: of the bootstrap.

    Raises:
        InputError: a folder cannot be read, a system is missing or not named, the runs differ in protocol,
            definition of level or seeds, or no mixture was enhanced by both.
    """
    first = a if isinstance(a, Outcomes) else outcomes(a, "" if isinstance(a, (str, Path)) else "A")
    second = first
    if b is not None:
        second = b if isinstance(b, Outcomes) else outcomes(b, "" if isinstance(b, (str, Path)) else "B")
    if b is not None:
        _check_alike(first, second)
    system, base = _chosen(first, second, model, baseline, same_run=b is None)
    ours, theirs = second.rows_of(system), first.rows_of(base)
    if lips is not None:
        ours, theirs = (_with_lips(rows, lips, name) for rows, name in ((ours, system), (theirs, base)))
    names = (str(ours["system"].iloc[0]), str(theirs["system"].iloc[0]))
    if names[0] == names[1]:
        names = (f"{names[0]} of {second.name}", f"{names[1]} of {first.name}")
    metrics = [metric for metric in first.metrics if metric in second.metrics]
    if b is not None:
        _check_seeds(ours, theirs, names)
    return _compared(ours, theirs, names, metrics, seed)


def shared_systems(a: Outcomes, b: Outcomes) -> list[str]:
    """Systems of the same model and algorithm in both runs, MODEL:ALGORITHM, in the order of b."""
    names = [list(dict.fromkeys(own.frame["model"] + ":" + own.frame["algorithm"])) for own in (a, b)]
    return [name for name in names[1] if name in names[0]]


def _check_alike(a: Outcomes, b: Outcomes) -> None:
    for column, what in (("protocol", "protocol"), ("level_definition", "definition of level")):
        ours, theirs = (", ".join(sorted(set(map(str, own.frame[column])))) for own in (a, b))
        if ours != theirs:
            raise InputError(f"{a.name} has the {what} {ours!r} and {b.name} {theirs!r}; compare like runs")


def _chosen(
    a: Outcomes, b: Outcomes, model: str | None, baseline: str | None, same_run: bool
) -> tuple[str, str]:
    """Names of the system in b and of the baseline in a."""
    if same_run:
        baseline = baseline or a.systems[0]
        others = [system for system in a.systems if system != baseline]
        if model is None and len(others) == 1:
            model = others[0]
        if model is None:
            there = f"there are {', '.join(a.systems)}" if len(a.systems) > 1 else "there is one"
            raise InputError(f"{a.name}: name the system to compare (--model); {there}")
        if model == baseline:
            raise InputError(f"{a.name}: {model} is compared with itself; name another baseline (--baseline)")
        return model, baseline
    if model is None and baseline is None:
        both = shared_systems(a, b)
        if len(a.systems) == len(b.systems) == 1:
            return b.systems[0], a.systems[0]
        if len(both) != 1:
            there = ", ".join(both) or f"{', '.join(a.systems)} in one, {', '.join(b.systems)} in the other"
            raise InputError(f"name the systems to compare (--model, --baseline); there are {there}")
        return both[0], both[0]
    return model or str(baseline), baseline or str(model)


def _with_lips(rows: "pd.DataFrame", lips: str, system: str) -> "pd.DataFrame":
    kinds = list(dict.fromkeys(rows["lips"]))
    if kinds == [NO_LIPS]:
        return rows
    if lips not in kinds:
        raise InputError(f"{system}: was not run with lips {lips!r}; there are {', '.join(kinds)}")
    return rows[rows["lips"] == lips]


def _compared(
    ours: "pd.DataFrame",
    theirs: "pd.DataFrame",
    names: tuple[str, str],
    metrics: Sequence[str],
    seed: int,
) -> Comparison:
    blind = [set(rows["lips"]) == {NO_LIPS} for rows in (theirs, ours)]
    key = ["mixture"] if blind[0] != blind[1] else ["mixture", "lips"]
    both = theirs.merge(ours, on=key, suffixes=("_base", ""))
    kept = both.set_index(key).index
    only = [int((~rows.set_index(key).index.isin(kept)).sum()) for rows in (theirs, ours)]
    failed = [both[f"status{end}"] != DONE for end in ("_base", "")]
    pairs = both[~failed[0] & ~failed[1]]
    if pairs.empty:
        raise InputError(
            f"{names[0]} and {names[1]}: no mixture was enhanced by both ({len(both)} mixtures in common)"
        )
    _check_same_sounds(pairs, names)
    clusters = clustering(list(pairs["speaker"]), list(pairs["clip"]), list(pairs["mixture"]))
    values = np.stack(
        [(pairs[f"enhanced_{m}"] - pairs[f"enhanced_{m}_base"]).to_numpy(np.float64) for m in metrics], axis=1
    )
    means = cluster_means(values, clusters.labels, np.random.default_rng(seed))
    differences = {
        metric: Difference(
            metric,
            float(means.mean[k]),
            float(means.lower[k]),
            float(means.upper[k]),
            int(means.count[k]),
            len(pairs) - int(means.count[k]),
            win_rate(measure(metric).sign * values[:, k]),
        )
        for k, metric in enumerate(metrics)
    }
    speakers = pairs["speaker"].dropna().nunique() if pairs["speaker"].notna().all() else 0
    failures = int((failed[1] & ~failed[0]).sum())
    notes = [
        *(
            f"{_counted(count, 'row')} of {name} without a partner in {other} left out."
            for count, name, other in ((only[0], names[1], names[0]), (only[1], names[0], names[1]))
            if count
        ),
        *(
            f"{_counted(int(bad.sum()), 'mixture')} that {name} failed to enhance left out."
            for bad, name in zip(failed, reversed(names), strict=True)
            if bad.any()
        ),
        *(
            f"{measure(own.metric).name} is undefined in {_counted(own.undefined, 'pair')}, left out."
            for own in differences.values()
            if own.undefined
        ),
        *([clusters.why] if clusters.why else []),
    ]
    kinds = pairs["lips_base"] if blind == [False, True] else pairs["lips"]
    return Comparison(
        names[0],
        names[1],
        differences,
        len(pairs),
        int(pairs["mixture"].nunique()),
        tuple(dict.fromkeys(kinds)),
        int(speakers),
        clusters.unit,
        tuple(notes),
        failures,
    )


def _check_seeds(ours: "pd.DataFrame", theirs: "pd.DataFrame", names: tuple[str, str]) -> None:
    both = theirs.merge(ours, on=["mixture", "lips"], suffixes=("_base", ""))
    other = both[both["seed"] != both["seed_base"]]
    if len(other):
        row = other.iloc[0]
        raise InputError(
            f"{row['mixture']}: has seed {row['seed']} for {names[0]} and {row['seed_base']} for {names[1]}; "
            "run both with one seed"
        )


def _check_same_sounds(pairs: "pd.DataFrame", names: tuple[str, str]) -> None:
    if "noisy_si_sdr" in pairs and "noisy_si_sdr_base" in pairs:
        apart = (pairs["noisy_si_sdr"] - pairs["noisy_si_sdr_base"]).abs()
        if (apart > SAME_SOUND).any():
            row = pairs.loc[apart.idxmax()]
            raise InputError(
                f"{row['mixture']}: is another sound for {names[0]} than for {names[1]} (SI-SDR of the noisy "
                f"recording {row['noisy_si_sdr']:.2f} and {row['noisy_si_sdr_base']:.2f} dB); "
                "run both on the same recordings"
            )


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _signed(value: float, how: Measure) -> str:
    return f"{how.text(value)}{' ' + how.unit if how.unit else ''}"


def _amount(value: float, how: Measure) -> str:
    return _signed(abs(value), how).lstrip("+")


def _range(own: Difference, how: Measure) -> str:
    return f"{how.text(own.lower)} to {how.text(own.upper)}"
