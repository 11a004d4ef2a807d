"""The engine of an evaluation: every mixture through every system, each result stored once it is there.

The unit of work is one (mixture, lips, model, algorithm). Workers compute rows, on processes of this machine
or on a Dask cluster, and the parent alone writes them. A run that was killed goes on where it was.
"""

import hashlib
import json
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from avse.data.errors import InputError
from avse.data.lips import Lips, Reason
from avse.data.lips.corruption import corrupt_lips
from avse.data.lips.crop import SIDE
from avse.evaluation import protocols, store
from avse.evaluation.benchmark import RATE, MixtureSpec, Samples
from avse.evaluation.metrics import METRICS, OPTIONAL_METRICS, check_metrics
from avse.evaluation.processes import in_processes
from avse.evaluation.store import LIPS, NO_LIPS
from avse.version import __version__

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of a function, in its repr
UNSEEN_FPS = 25.0  # video frames per second of a video in which nobody is seen
PACKAGES = ("torch", "pyro-ppl", "numpy", "scipy", "pesq", "pystoi", "fast-bss-eval")
"""Whose versions a row tells, as far as they are installed."""


class System(Protocol):
    """What is evaluated: a model with an algorithm. It is pickled to workers."""

    @property
    def model(self) -> str:
        """By which tables call it."""
        ...

    @property
    def algorithm(self) -> str:
        """As it was asked for."""
        ...

    @property
    def uses_lips(self) -> bool:
        """Whether it is shown lips; one that is not is run once, with the lips "none"."""
        ...

    @property
    def weights(self) -> str:
        """SHA-256 of its weights."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """All else that decides about its output, as plain values."""
        ...

    def __call__(self, noisy: Samples, lips: Lips | None, spec: MixtureSpec) -> Samples:
        """Speech (T,) of a mixture (T,), at `RATE`; its random draws are those of `spec.seed`."""
        ...


@dataclass(frozen=True)
class Unit:
    """One row to compute.

    Attributes:
        protocol: makes the mixture.
        spec: of the mixture.
        lips: one of `LIPS`.
        system: that enhances it.
        metrics: names, of `METRICS` and `OPTIONAL_METRICS`.
    """

    protocol: protocols.Protocol
    spec: MixtureSpec
    lips: str
    system: System
    metrics: tuple[str, ...] = store.METRIC_NAMES

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Of its row, see `avse.evaluation.store.KEY`."""
        return self.spec.mixture, self.lips, self.system.model, self.system.algorithm


def units(
    protocol: protocols.Protocol,
    systems: Sequence[System],
    lips: Sequence[str] = (),
    metrics: Sequence[str] = store.METRIC_NAMES,
    limit: int | None = None,
) -> list[Unit]:
    """All rows of an evaluation, those of one mixture together.

    Args:
        protocol: lists the mixtures.
        systems: what is evaluated.
        lips: of `LIPS`, for systems that use them; none for "clean", or "none" where nobody is seen.
        metrics: names.
        limit: of so many mixtures, drawn alike at every run; the first of more mixtures are those of fewer.

    Raises:
        InputError: no mixture, no system, two of one name, or lips that the protocol has not.
    """
    wanted = tuple(dict.fromkeys(lips)) or (("clean",) if protocol.has_lips else (NO_LIPS,))
    if unknown := [name for name in wanted if name not in LIPS]:
        raise InputError(f"lips {', '.join(unknown)}: use {', '.join(LIPS)}")
    if not protocol.has_lips and wanted != (NO_LIPS,) and any(system.uses_lips for system in systems):
        raise InputError(f"{protocol.name}: shows no speakers; use the lips none")
    names = [(system.model, system.algorithm) for system in systems]
    if not names:
        raise InputError("no model: give one or more")
    if double := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{double[0]} with {double[1]}: is given twice; give each a name of its own")
    check_metrics(metrics)
    specs = protocol.mixtures()
    if not specs:
        raise InputError(f"{protocol.name}: no mixture is left; give more speakers, noises or levels")
    mixtures = [spec.mixture for spec in specs]
    if len(set(mixtures)) < len(mixtures):
        double_name = next(name for name in mixtures if mixtures.count(name) > 1)
        raise InputError(f"{protocol.name}: has two mixtures called {double_name!r}; rename one clip")
    if limit is not None:
        if limit < 1:
            raise InputError(f"{limit} mixtures: give at least 1")
        chosen = sorted(np.random.default_rng(0).permutation(len(specs))[:limit])
        specs = [specs[index] for index in chosen]
    return [
        Unit(protocol, spec, own, system, tuple(metrics))
        for spec in specs
        for system in systems
        for own in (wanted if system.uses_lips else (NO_LIPS,))
    ]


def evaluate(
    protocol: protocols.Protocol,
    systems: Sequence[System],
    out: str | Path,
    *,
    lips: Sequence[str] = (),
    metrics: Sequence[str] = store.METRIC_NAMES,
    limit: int | None = None,
    jobs: int = 1,
    dask_scheduler: str | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> None:
    """Evaluate systems on a protocol, into a folder that `avse.evaluation.store.load_results` reads.

    Rows that the folder has are not computed again, but those that failed. The table does not depend on the
    number of workers, nor on how often the run was interrupted, but for the times.

    Args:
        protocol: lists and makes the mixtures.
        systems: what is evaluated.
        out: the folder, made when missing.
        lips: what systems that use lips are shown, of `LIPS`; see `units`.
        metrics: names.
        limit: of so many mixtures.
        jobs: processes on this machine.
        dask_scheduler: address of a Dask scheduler whose workers compute instead; they see the same files.
        progress: told the fraction of the rows that are done.

    Raises:
        InputError: see `units`; `out` holds another evaluation or is full; no scheduler is there; or worker
            processes were killed. What is done is kept.
    """
    work = units(protocol, systems, lips, metrics, limit)
    shown = list(dict.fromkeys(unit.lips for unit in work))
    manifest = manifest_of(protocol, systems, shown, metrics, limit)
    with store.started(out, manifest) as results:
        finished = results.keys()
        left = [unit for unit in work if unit.key not in finished]
        done = len(work) - len(left)
        progress(done / len(work))
        for row in computed(left, jobs, dask_scheduler):
            results.add(row)
            done += 1
            progress(done / len(work))
    spent = float(store.load_results(out)["seconds"].sum())
    store.write_manifest(out, {**store.load_manifest(out), "seconds": spent})


def manifest_of(
    protocol: protocols.Protocol,
    systems: Sequence[System],
    lips: Sequence[str],
    metrics: Sequence[str],
    limit: int | None,
) -> dict[str, Any]:
    """What `evaluation.json` says of a run that begins now."""
    return {
        "protocol": protocol.name,
        "arguments": {
            **protocol.arguments(),
            "systems": [f"{system.model}, {system.algorithm}" for system in systems],
            "lips": list(lips),
            "limit": limit,
        },
        "level_definition": protocol.level_definition,
        "metrics": list(metrics),
        "weights": {system.model: system.weights for system in systems},
        "settings": {f"{system.model}, {system.algorithm}": _digest(system.settings) for system in systems},
        "versions": versions(),
        "hardware": hardware(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": 0.0,
    }


def settings_text(settings: Mapping[str, Any], sort_keys: bool = False) -> str:
    """Settings as JSON, without the addresses of functions, which are others in every process."""
    return _ADDRESS.sub("", json.dumps(dict(settings), sort_keys=sort_keys, ensure_ascii=False))


def _digest(settings: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that tell settings apart; rows have them in full."""
    text = settings_text(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def computed(
    work: Sequence[Unit], jobs: int = 1, dask_scheduler: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of units, in the order in which they are done.

    Raises:
        InputError: no Dask scheduler is there, or worker processes were killed.
    """
    if dask_scheduler is not None:
        from avse.evaluation.dask_cluster import computed_on_cluster

        yield from computed_on_cluster(work, dask_scheduler)
    else:
        yield from in_processes(result_row, [(unit,) for unit in work], jobs)


def result_row(unit: Unit) -> dict[str, Any]:
    """The row of a unit, computed on one thread; one that fails tells why."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _result_row(unit)
    finally:
        torch.set_num_threads(threads)


def _result_row(unit: Unit) -> dict[str, Any]:
    row = _described(unit)
    # A row must come back whatever happens to one mixture: files may be damaged in any way, and a system may
    # be anybody's code, so no list of exceptions would be complete. The reason is kept in the row.
    try:
        speech, noisy, before = _mixture_and_metrics(unit.protocol, unit.spec, unit.metrics)
        row["duration"] = duration = len(noisy) / RATE
        row |= {f"noisy_{name}": value for name, value in before.items()}
        lips = shown_lips(unit.protocol, unit.spec, unit.lips, duration) if unit.system.uses_lips else None
        start = time.perf_counter()
        enhanced = unit.system(noisy, lips, unit.spec)
        row["seconds"] = time.perf_counter() - start
        row["real_time_factor"] = row["seconds"] / duration
        after = measured(speech, enhanced, unit.metrics)
    except InputError as error:
        return {**row, "status": store.FAILED, "reason": str(error)}
    except Exception as error:
        return {**row, "status": store.FAILED, "reason": f"{type(error).__name__}: {error}"}
    row |= {f"enhanced_{name}": value for name, value in after.items()}
    return {**row, "status": store.DONE, "reason": None}


def failed_row(unit: Unit, reason: str) -> dict[str, Any]:
    """The row of a unit of which nothing came back."""
    return {**_described(unit), "status": store.FAILED, "reason": reason}


def _described(unit: Unit) -> dict[str, Any]:
    """What a row says before anything is computed."""
    spec, system = unit.spec, unit.system
    return {
        **dict(zip(store.KEY, unit.key, strict=True)),
        "protocol": unit.protocol.name,
        "split": spec.split,
        "speaker": spec.speaker,
        "clip": Path(spec.clip).name,
        "noise_type": spec.noise_type,
        "level": spec.level,
        "level_definition": spec.level_definition,
        "seed": spec.seed,
        "weights": system.weights,
        "settings": settings_text(system.settings),
        "versions": json.dumps(versions()),
    }


def shown_lips(protocol: protocols.Protocol, spec: MixtureSpec, lips: str, duration: float) -> Lips:
    """What a system is shown of the lips of a mixture.

    Degraded lips are spoilt in a third of the video frames (`avse.data.lips.corruption`), alike for all
    systems.

    Args:
        protocol: knows the lips.
        spec: of the mixture.
        lips: one of `LIPS`.
        duration: of the mixture in s.

    Raises:
        InputError: the speaker is not seen.
    """
    if lips == NO_LIPS:
        count = max(1, round(duration * UNSEEN_FPS))
        images, reasons = np.zeros((count, SIDE, SIDE), np.uint8), np.full(count, Reason.NO_FACE, np.uint8)
        return Lips(images, np.arange(count) / UNSEEN_FPS, reasons, UNSEEN_FPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = protocol.lips(spec)
    if lips == "degraded":
        seen, _ = corrupt_lips(seen, np.random.default_rng((spec.seed, 1)))
    return seen


def measured(speech: Samples, estimate: Samples, metrics: Iterable[str]) -> dict[str, float]:
    """Metrics by name; an undefined one is NaN.

    Raises:
        InputError: the shapes differ.
    """
    known = {**METRICS, **OPTIONAL_METRICS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return {name: known[name](speech, estimate, RATE) for name in metrics}


@lru_cache(maxsize=8)
def _mixture_and_metrics(
    protocol: protocols.Protocol, spec: MixtureSpec, metrics: tuple[str, ...]
) -> tuple[Samples, Samples, dict[str, float]]:
    """Clean speech, mixture and metrics of the mixture, made once for the systems that follow each other."""
    speech, noisy = protocol.sounds(spec)
    return speech, noisy, measured(speech, noisy, metrics)


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("avse", __version__), ("python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what the numbers depend on."""
    return dict(_versions())


def hardware() -> str:
    """The processor of this machine and its number of cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


@dataclass(frozen=True)
class Estimate:
    """What a run would be.

    Attributes:
        mixtures: how many.
        rows: how many in all.
        left: how many of them are not done yet.
        seconds: that they would take, wall time.
    """

    mixtures: int
    rows: int
    left: int
    seconds: float


def estimated(
    work: Sequence[Unit], finished: Iterable[tuple[str, str, str, str]] = (), jobs: int = 1
) -> Estimate:
    """Count the rows, and estimate the time from one real row of every system.

    Durations of mixtures are taken to be alike. A system whose first row fails counts as if it took no time.

    Args:
        work: all rows.
        finished: keys of rows that are done.
        jobs: processes that would share them.
    """
    known = set(finished)
    left = [unit for unit in work if unit.key not in known]
    seconds = 0.0
    cost: dict[tuple[str, str], float] = {}
    for unit in left:
        kind = unit.system.model, unit.system.algorithm
        if kind not in cost:
            result_row(unit)  # the first call in a process reads files and compiles
            start = time.perf_counter()
            result_row(unit)
            cost[kind] = time.perf_counter() - start
        seconds += cost[kind]
    return Estimate(len({unit.spec.mixture for unit in work}), len(work), len(left), seconds / max(1, jobs))
