"""Tables of docs/results.md from the folders of `avse evaluate`, and the talk's claims as hypotheses.

    python benchmarks/talk.py runs/grid runs/voicebank-demand

    python benchmarks/talk.py runs/both --algorithm a-vae=mcem --algorithm vae-mm=mcem-anchored

`make results` makes the folders first. For each folder the improvements, the differences between systems, the
metrics by level, and how and where it was computed are written to benchmarks/results/evaluation_PROTOCOL.md;
where models were shown clean and degraded lips, the claims are, to claims_PROTOCOL.md. A claim is a mean of
paired differences with its 95 % interval from a bootstrap of speakers, or of clips where there are fewer than
five speakers: then what is found holds for those speakers. Where a folder has several algorithms for a model
of the claims, `--algorithm MODEL=ALGORITHM` says which of them the claims are about.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
import pandas as pd

from avse.data.errors import InputError
from avse.data.files import atomic_path
from avse.evaluation.measures import measure
from avse.evaluation.outcomes import Outcomes, outcomes
from avse.evaluation.results_report.summary import summarized
from avse.evaluation.results_report.tables import interval, tables
from avse.evaluation.statistics import Means, cluster_contrast, cluster_means, clustering
from avse.evaluation.store import DONE

RESULTS = Path(__file__).parent / "results"
METRICS = ("si_sdr", "pesq_wb", "stoi")
KNOWN = ("s1",)
"""Speakers of `grid` whose other sentences are in the training split."""
LOW = -5.0
"""Levels up to this one, in dB, are low, the others are high."""


@dataclass(frozen=True)
class Claim:
    """A claim that holds if a difference is positive.

    Attributes:
        text: the claim.
        better, worse: (model, lips) whose difference is taken, mixture by mixture.
        less: a difference (better, worse) that is subtracted from it, mixture by mixture.
        low_minus_high: the claim is about the difference at low levels minus that at high ones.
    """

    text: str
    better: tuple[str, str]
    worse: tuple[str, str]
    less: tuple[tuple[str, str], tuple[str, str]] | None = None
    low_minus_high: bool = False


CLEAN_AND_DEGRADED = ("clean", "degraded")
CLAIMS = (
    Claim("AV-VAE is above A-VAE", ("av-vae", "clean"), ("a-vae", "none")),
    Claim("... and more so at low levels", ("av-vae", "clean"), ("a-vae", "none"), low_minus_high=True),
    Claim("AV-VAE is above V-VAE", ("av-vae", "clean"), ("v-vae", "clean")),
    Claim(
        "VAE-MM loses less by degraded lips than AV-VAE",
        ("vae-mm", "degraded"),
        ("vae-mm", "clean"),
        less=(("av-vae", "degraded"), ("av-vae", "clean")),
    ),
    Claim("VAE-MM is above A-VAE, lips degraded", ("vae-mm", "degraded"), ("a-vae", "none")),
    Claim("VAE-MM is above AV-VAE, lips degraded", ("vae-mm", "degraded"), ("av-vae", "degraded")),
    *(
        Claim(
            f"{name} is above {other.upper()}",
            (model, "clean"),
            (other, "none" if other == "a-vae" else "clean"),
        )
        for name, model in (("MIN-VAE, version 1", "min-vae-v1"), ("MIN-VAE, version 2", "min-vae-v2"))
        for other in ("a-vae", "v-vae", "av-vae")
    ),
)


CLAIMED = sorted({model for claim in CLAIMS for model, _ in (claim.better, claim.worse, *(claim.less or ()))})
"""Models that a claim is about."""


def one_algorithm(frame: pd.DataFrame, chosen: Mapping[str, str], name: str) -> pd.DataFrame:
    """The rows of the models of the claims, of one algorithm each.

    Args:
        frame: rows of an evaluation.
        chosen: model -> algorithm; may leave out models that were run with one algorithm.
        name: of the evaluation, for messages.

    Raises:
        InputError: a model was run with several algorithms and none is chosen, or with others than the chosen
            one; lists them.
    """
    frame = frame[frame["model"].isin(CLAIMED)]
    wanted = {}
    for model, rows in frame.groupby("model"):
        algorithms = sorted(set(rows["algorithm"]))
        algorithm = chosen.get(str(model), algorithms[0] if len(algorithms) == 1 else None)
        if algorithm not in algorithms:
            problem = f"not {algorithm}" if algorithm else "choose one"
            raise InputError(
                f"{name}: {model} was run with {', '.join(algorithms)}, {problem}: give --algorithm "
                f"{model}=ALGORITHM"
            )
        wanted[model] = algorithm
    return frame[frame["algorithm"] == frame["model"].map(wanted)]


def difference(
    frame: pd.DataFrame, metric: str, better: tuple[str, str], worse: tuple[str, str]
) -> "pd.Series[float] | None":
    """Paired differences by mixture, of models with one algorithm each; None where one was not run."""
    values = []
    for model, lips in (better, worse):
        rows = frame[(frame["model"] == model) & (frame["lips"] == lips)]
        values.append(rows.set_index("mixture")[f"enhanced_{metric}"])
    found = (values[0] - values[1]).dropna()
    return found if len(found) else None


def tested(frame: pd.DataFrame, claim: Claim, metric: str) -> Means | None:
    """The difference that a claim is about; None where a system was not run."""
    found = difference(frame, metric, claim.better, claim.worse)
    if found is not None and claim.less is not None:
        less = difference(frame, metric, *claim.less)
        found = None if less is None else (found - less).dropna()
    if found is None or not len(found):
        return None
    about = frame.drop_duplicates("mixture").set_index("mixture").loc[found.index]
    labels = clustering(list(about["speaker"]), list(about["clip"]), list(found.index)).labels
    generator, values = np.random.default_rng(0), found.to_numpy(np.float64)
    if claim.low_minus_high:
        low = (about["level"] <= LOW).to_numpy()
        return cluster_contrast(values[low], labels[low], values[~low], labels[~low], generator)
    return cluster_means(values, labels, generator)


def verdict(found: Means) -> str:
    """Whether the difference is positive, at 95 %."""
    if np.isnan(found.lower[0]):
        return "not known"
    return "yes" if found.lower[0] > 0 else "no, the contrary" if found.upper[0] < 0 else "not shown"


def claims_table(own: Outcomes, chosen: Mapping[str, str]) -> str:
    """The claims of the talk in Markdown, for known speakers and for strangers.

    Args:
        own: the evaluation.
        chosen: model -> algorithm, see `one_algorithm`.

    Raises:
        InputError: a model has several algorithms and none is chosen.
    """
    rows = one_algorithm(own.frame, chosen, own.name)
    done = rows[rows["status"] == DONE]
    groups = {
        "known speaker": done[done["speaker"].isin(KNOWN)],
        "strangers": done[~done["speaker"].isin(KNOWN)],
    }
    titles = [measure(metric).title for metric in METRICS]
    lines = [f"| claim | speakers | n | {' | '.join(titles)} |", "|---" * (3 + len(METRICS)) + "|"]
    for claim in CLAIMS:
        for name, frame in groups.items():
            found = [tested(frame, claim, metric) for metric in METRICS]
            if all(each is None for each in found):
                continue
            count = max(int(each.count[0]) for each in found if each is not None)
            cells = [_cell(each, metric) for each, metric in zip(found, METRICS, strict=True)]
            people = ", ".join(sorted(set(frame["speaker"])))
            lines.append(f"| {claim.text} | {name} ({people}) | {count} | {' | '.join(cells)} |")
    note = (
        "Mean paired difference, its 95 % interval, and whether it is positive. Low levels are those up to "
        f"{LOW:g} dB; n counts mixtures (of the smaller side, for low minus high levels). "
        f"Level: {own.level_definition}.{_algorithms_text(done, own)}"
    )
    return "\n".join([*lines, "", note, ""])


def _algorithms_text(done: pd.DataFrame, own: Outcomes) -> str:
    """Which algorithms were chosen among several; empty where each model has one."""
    several = own.frame.groupby("model")["algorithm"].nunique() > 1
    pairs = {row["model"]: row["algorithm"] for row in done.to_dict("records") if several[row["model"]]}
    return f" Algorithms: {', '.join(map(' by '.join, sorted(pairs.items())))}." if pairs else ""


def _cell(found: Means | None, metric: str) -> str:
    if found is None:
        return "–"
    shown = interval(float(found.mean[0]), float(found.lower[0]), float(found.upper[0]), measure(metric))
    return f"{shown}: {verdict(found)}"


def provenance(own: Outcomes) -> str:
    """How and where a folder was computed, in a line."""
    manifest = own.manifest
    arguments = {
        name: value
        for name, value in manifest.get("arguments", {}).items()
        if name != "root" and value is not None
    }
    versions = ", ".join(f"{name} {manifest['versions'][name]}" for name in ("avse", "torch"))
    return (
        f"`avse evaluate`, protocol {manifest['protocol']}, {json.dumps(arguments)}; {manifest['hardware']}, "
        f"{manifest['seconds'] / 60:.0f} minutes of computation, {manifest['started'][:10]}; {versions}."
    )


def page(own: Outcomes) -> Iterator[str]:
    """The tables of an evaluation in Markdown, with what they were computed by."""
    yield provenance(own) + "\n"
    wanted = ("overall", "metrics", "differences", *(f"{metric}-by-level" for metric in METRICS))
    for table in tables(summarized(own)):
        if table.name in wanted:
            yield f"**{table.title}**\n\n{table.markdown()}"


def written(
    folders: Sequence[Path], results: Path = RESULTS, chosen: Mapping[str, str] | None = None
) -> list[Path]:
    """Write the files of all folders; returns their names.

    Args:
        folders: of evaluations.
        results: folder of the files.
        chosen: model -> algorithm that the claims are about, where a model has several.

    Raises:
        InputError: a folder cannot be read, or a model of the claims has several algorithms, none chosen.
    """
    files = {}
    for folder in folders:
        own = outcomes(folder)
        protocol = own.manifest["protocol"]
        files[f"evaluation_{protocol}.md"] = "\n".join(page(own))
        if set(CLEAN_AND_DEGRADED) <= set(own.frame["lips"]):
            files[f"claims_{protocol}.md"] = claims_table(own, chosen or {})
    for name, text in files.items():
        with atomic_path(results / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [results / name for name in files]


def parser() -> argparse.ArgumentParser:
    """The arguments of the script."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("folders", type=Path, nargs="+", help="folders of evaluations")
    result.add_argument(
        "--algorithm",
        action="append",
        default=[],
        type=_choice,
        metavar="MODEL=ALGORITHM",
        help="which algorithm of a model the claims are about, where a folder has several; may be repeated",
    )
    return result


def main() -> None:
    arguments = parser().parse_args()
    for path in written(arguments.folders, chosen=dict(arguments.algorithm)):
        print(path)


def _choice(text: str) -> tuple[str, str]:
    """MODEL=ALGORITHM in its parts."""
    model, _, algorithm = text.partition("=")
    if model not in CLAIMED or not algorithm:
        raise argparse.ArgumentTypeError(f"{text!r}: give MODEL=ALGORITHM, MODEL one of {', '.join(CLAIMED)}")
    return model, algorithm


if __name__ == "__main__":
    common.run(main)
