"""The report of an evaluation: one HTML page without scripts or other files, figures and tables for a paper.

    report = report_of("results/grid")
    Path("report.html").write_text(report.page, encoding="utf-8")

The page is a template of Jinja2, which escapes all names. Figures (SVG), sounds (FLAC) and the files of
tables are embedded.
"""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avse.data.files import atomic_path, made_folder
from avse.evaluation.measures import measure
from avse.evaluation.outcomes import Outcomes, outcomes
from avse.evaluation.results_report.figures import LIPS_TITLES, TALK, Picture, pictures
from avse.evaluation.results_report.summary import Summary, summarized
from avse.evaluation.results_report.tables import Table, csv_text, tables
from avse.evaluation.results_report.worst import worst_mixtures

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = Path(__file__).parent / "templates"
FAILURES_SHOWN = 200


@dataclass(frozen=True)
class Report:
    """An evaluation for readers.

    Attributes:
        page: text of the HTML page.
        pictures: the figures.
        tables: the tables.
        cells: every mean with its interval, as CSV.
    """

    page: str
    pictures: list[Picture]
    tables: list[Table]
    cells: str

    def export(self, folder: str | Path) -> list[Path]:
        """Write the figures as PDF, the tables as Markdown, LaTeX and CSV, and all means as one CSV.

        Raises:
            InputError: the folder cannot be used or the disk is full.
        """
        place = made_folder(folder)
        files = {f"{picture.name}.pdf": picture.pdf() for picture in self.pictures}
        for table in self.tables:
            files |= {f"{table.name}{end}": text.encode() for end, text in _forms(table).items()}
        files["all-means.csv"] = self.cells.encode()
        for name, content in files.items():
            with atomic_path(place / name) as temporary:
                temporary.write_bytes(content)
        return [place / name for name in files]


def report_of(
    results: "str | Path | pd.DataFrame | Outcomes",
    *,
    baseline: str | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Report:
    """The report of an evaluation.

    Args:
        results: folder of the evaluation, or its table.
        baseline: the system that the others are compared with; default the first.
        seed: of the bootstrap.
        progress: called with the share that is done.

    Raises:
        InputError: the results cannot be read, or there is no such baseline.
        ModuleNotFoundError: Jinja2 is not installed; the extra `evaluation` brings it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    own = results if isinstance(results, Outcomes) else outcomes(results)
    worst, remark = worst_mixtures(own)
    progress(0.05)
    summary = summarized(own, baseline, seed)
    progress(0.4)
    drawn, written = pictures(summary), tables(summary)
    cells = _cells(summary)
    images = []
    for number, picture in enumerate(drawn):
        images.append({"address": picture.svg(), "caption": picture.caption, "name": picture.name})
        progress(0.4 + 0.55 * (number + 1) / len(drawn))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    failed = own.failed
    page = environment.get_template("report.html").render(
        title=own.manifest.get("protocol") or ", ".join(dict.fromkeys(map(str, own.frame["protocol"]))),
        run=own.name,
        lead=_lead(summary),
        findings=list(_findings(summary)),
        sentences=[
            (f"{_with_lips(summary, lips)}{system}", found.sentences())
            for (lips, system), found in summary.comparisons.items()
        ],
        lower_is_better=", ".join(measure(m).name for m in own.metrics if not measure(m).higher_is_better),
        baseline=summary.baseline,
        images=images,
        tables=[{"table": table, "files": _downloads(table)} for table in written],
        cells=_uri(cells, "text/csv"),
        worst=worst,
        worst_remark=remark,
        failures=failed[["mixture", "lips", "system", "reason"]].head(FAILURES_SHOWN).to_dict("records"),
        failed=len(failed),
        facts=_facts(own),
        systems=list(_systems(own)),
    )
    progress(1.0)
    return Report(page, drawn, written, cells)


def _cells(summary: Summary) -> str:
    table = summary.table()
    return csv_text([list(table.columns), *table.astype(object).where(table.notna(), "").to_numpy().tolist()])


def _lead(summary: Summary) -> str:
    frame, own = summary.outcomes.frame, summary.outcomes
    mixtures, speakers = frame["mixture"].nunique(), frame["speaker"].dropna().nunique()
    parts = [f"{len(own.systems)} systems" if len(own.systems) > 1 else f"1 system, {own.systems[0]}"]
    parts.append(f"{mixtures} mixture{'' if mixtures == 1 else 's'}")
    if speakers:
        parts.append(f"{speakers} speaker{'' if speakers == 1 else 's'}")
    if summary.noises:
        parts.append("noises: " + ", ".join(summary.noises))
    if summary.levels:
        levels = ", ".join(f"{level:g}" for level in summary.levels)
        parts.append(f"levels: {levels} dB ({own.level_definition})")
    return "; ".join(parts) + "."


def _findings(summary: Summary) -> Iterator[str]:
    """Failures first, then what was found in the first metric of the talk that is measured by decibels."""
    failed, every = len(summary.outcomes.failed), len(summary.outcomes.frame)
    if failed == every:
        yield "No mixture was enhanced; the reasons are listed below."
        return
    if failed:
        yield f"{failed} of {every} enhancements failed; they are listed below and left out of all means."
    for metric in summary.metrics:
        places = [(lips, system, None, None, metric) for lips in summary.lips for system in summary.systems]
        count = sum(summary.cells[place].undefined for place in places if place in summary.cells)
        if count:
            yield f"{measure(metric).name} is undefined for {count} enhanced mixtures, left out of its means."
    main = next((m for m in ("si_sdr", *TALK[1], *summary.metrics) if m in summary.metrics), None)
    for (lips, _), found in summary.comparisons.items():
        if main is not None:
            yield f"{_with_lips(summary, lips)}{found.sentence(main)}"


def _with_lips(summary: Summary, lips: str) -> str:
    return f"{LIPS_TITLES.get(lips, lips).capitalize()}: " if len(summary.lips) > 1 else ""


def _forms(table: Table) -> dict[str, str]:
    return {".md": table.markdown(), ".tex": table.latex(), ".csv": table.csv()}


def _downloads(table: Table) -> list[dict[str, str]]:
    kinds = {".md": "text/markdown", ".tex": "application/x-tex", ".csv": "text/csv"}
    return [
        {"name": f"{table.name}{end}", "address": _uri(text, kinds[end])}
        for end, text in _forms(table).items()
    ]


def _uri(text: str, kind: str) -> str:
    return f"data:{kind};charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


def _facts(own: Outcomes) -> dict[str, str]:
    """What was run, by name."""
    manifest = own.manifest
    seeds = sorted(set(own.frame["seed"]))
    facts: dict[str, Any] = {
        "results": own.name,
        "protocol": manifest.get("protocol", ", ".join(dict.fromkeys(map(str, own.frame["protocol"])))),
        "definition of level": own.level_definition,
        "split": ", ".join(dict.fromkeys(map(str, own.frame["split"].dropna()))) or "unknown",
        "seeds of mixtures": f"{len(seeds)}, {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else seeds[0],
        "sound": f"{own.frame.drop_duplicates('mixture')['duration'].sum() / 60:.1f} minutes of mixtures",
    }
    for name in ("hardware", "started"):
        if manifest.get(name):
            facts[name] = manifest[name]
    seconds = manifest.get("seconds")
    if isinstance(seconds, (int, float)):
        facts["computation"] = f"{seconds / 60:.1f} minutes"
    versions = manifest.get("versions")
    if isinstance(versions, dict):
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    arguments = manifest.get("arguments")
    if isinstance(arguments, dict):
        facts |= {f"argument {name}": _plain(value) for name, value in arguments.items()}
    return {name: str(value) for name, value in facts.items()}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _systems(own: Outcomes) -> Iterator[dict[str, str]]:
    """Weights and settings of every system; several where a system was run with several."""
    for system in own.systems:
        rows = own.frame[own.frame["system"] == system]
        yield {
            "system": system,
            "algorithm": ", ".join(dict.fromkeys(rows["algorithm"])),
            **{
                name: "; ".join(dict.fromkeys(map(str, rows[name].dropna()))) or "unknown"
                for name in ("weights", "settings", "versions")
            },
        }
