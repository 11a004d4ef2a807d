"""What `avse report` and `avse compare` do, as functions from folders of results."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avse.cli.extras import extras
from avse.data.errors import InputError
from avse.data.files import atomic_path, check_destination, check_distinct, made_folder

if TYPE_CHECKING:
    from avse.evaluation.comparison import Comparison


def report_results(
    folder: Path,
    out: Path | None = None,
    *,
    export: Path | None = None,
    baseline: str | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[Path, list[Path]]:
    """Write the page of an evaluation, and its figures and tables as files; returns what was written.

    Args:
        folder: of the evaluation.
        out: the page; default report.html in that folder.
        export: folder for figures and tables; default none are written.
        baseline: the system that the others are compared with.
        progress: called with the share that is done.

    Raises:
        InputError: the results cannot be read, there is no such baseline, or an output cannot be written.
    """
    with extras("evaluation"):
        from avse.evaluation.outcomes import outcomes
        from avse.evaluation.results_report.page import report_of

        own = outcomes(folder)
        out = folder / "report.html" if out is None else out
        if out.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{out}: the report is a page of HTML; let the name end in .html")
        check_destination(out)
        check_distinct(results=folder, export=export)
        if export is not None:
            made_folder(export)
        found = report_of(own, baseline=baseline, progress=progress)
    with atomic_path(out) as temporary:
        temporary.write_text(found.page, encoding="utf-8", errors="replace")
    return out, found.export(export) if export is not None else []


def compare_results(
    a: Path,
    b: Path | None = None,
    *,
    model: str | None = None,
    baseline: str | None = None,
    lips: str | None = None,
) -> "list[Comparison]":
    """Compare a system of run b with a baseline of run a, or all others of a run with its baseline.

    Without names, every system that both runs have is compared with itself; in one run, all others are
    compared with the first.

    Raises:
        InputError: a folder cannot be read, a system is missing, or the runs cannot be compared.
    """
    with extras("evaluation"):
        from avse.evaluation.comparison import compare, shared_systems
        from avse.evaluation.outcomes import outcomes

        first = outcomes(a)
        if b is None:
            base = baseline or first.systems[0]
            first.rows_of(base)
            others = [model] if model else [name for name in first.systems if name != base]
            if not others:
                raise InputError(f"{a}: has one system, {base}; give another run to compare it with")
            return [compare(first, model=name, baseline=base, lips=lips) for name in others]
        second = outcomes(b)
        shared = shared_systems(first, second)
        if model or baseline or len(shared) < 2:
            return [compare(first, second, model=model, baseline=baseline, lips=lips)]
        return [compare(first, second, model=name, lips=lips) for name in shared]


def losses(found: "list[Comparison]", metrics: list[str]) -> list[str]:
    """What was lost, a sentence for each significant loss and for mixtures that fail now.

    Raises:
        InputError: a metric was not measured, or there is no interval to judge by.
    """
    lost = []
    for each in found:
        lost += [each.sentence(metric) for metric in each.losses(metrics)]
        if each.failures:
            lost.append(f"{each.system} failed on {each.failures} that {each.baseline} enhanced.")
    return lost


def plain_values(found: "Comparison") -> dict[str, Any]:
    """A comparison as values for JSON; undefined numbers are null."""
    values = asdict(found)
    for metric, own in values["differences"].items():
        own["verdict"] = found.differences[metric].verdict
        own |= {
            key: None for key, value in own.items() if isinstance(value, float) and not np.isfinite(value)
        }
    return {**values, "sentences": found.sentences()}
