"""What `avse evaluate` does, as a function from options to a folder of results."""

from collections.abc import Callable
from pathlib import Path

from avse.checks import checked_count, checked_seed
from avse.cli.extras import extras


def evaluate_corpus(
    corpus: str,
    root: Path | None,
    out: Path,
    *,
    models: str,
    algorithms: str = "auto",
    noises: str = "",
    snrs: str | None = None,
    lips: str = "",
    split: str = "test",
    speakers: str = "",
    noise_root: Path | None = None,
    level_definition: str = "broadband",
    share: int | None = None,
    limit: int | None = None,
    jobs: int = 1,
    dask_scheduler: str | None = None,
    seed: int = 0,
    dnsmos: bool = False,
    worst: int = 3,
    dry_run: bool = False,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[str, list[str]]:
    """Evaluate models on a protocol; returns what to print and notes. Lists are texts with commas.

    A dry run counts and estimates, and writes nothing.

    Raises:
        InputError: an unknown corpus, model, algorithm, noise, level or kind of lips; a root that is missing
            or lacks what the corpus has; an `out` that holds another evaluation; nothing could be enhanced.
    """
    with extras("metrics"):
        from avse.evaluation import protocols, store
        from avse.evaluation.runner import estimated, evaluate, units
        from avse.evaluation.summary import failures, means_table, write_worst
    from avse.data.errors import InputError
    from avse.systems import EnhancementSystem

    checked_seed(seed)
    checked_count(jobs, "--jobs")
    checked_count(worst, "--worst", 0)
    if limit is not None:
        checked_count(limit, "--limit")
    if corpus not in protocols.PROTOCOLS:
        raise InputError(f"unknown corpus {corpus!r}: use one of {', '.join(protocols.PROTOCOLS)}")
    if corpus != "synthetic" and root is None:
        raise InputError(f"corpus {corpus!r} needs --root, the folder that holds it")
    given: dict[str, object] = {"speakers": listed(speakers), "seed": seed}
    if root is not None:
        given["root"] = str(root)
    if share is not None:
        given["share"] = checked_count(share, "--share")
    if corpus == protocols.ReadyPairs.name:
        if noises or snrs is not None:
            raise InputError(f"corpus {corpus!r} has ready mixtures: leave out --noises and --snrs")
    else:
        given |= {"split": split, "noises": listed(noises), "level_definition": level_definition}
        if snrs is not None:
            given["levels"] = protocols.checked_levels(listed(snrs))
    if noise_root is not None:
        if corpus != protocols.Folder.name:
            raise InputError(f"corpus {corpus!r} has noises of its own: leave out --noise-root")
        given["noise_root"] = str(noise_root)
    protocol = protocols.PROTOCOLS[corpus](**given)
    systems = [
        EnhancementSystem(model, algorithm)
        for model in dict.fromkeys(listed(models))
        for algorithm in dict.fromkeys(listed(algorithms))
    ]
    metrics = (*store.METRIC_NAMES, *(("dnsmos",) if dnsmos else ()))
    with extras("synthetic"):
        work = units(protocol, systems, listed(lips), metrics, limit)
    if dry_run:
        finished = store.finished_keys(out)
        found = estimated(work, finished, jobs)
        minutes = max(1, round(found.seconds / 60))
        return (
            f"{found.mixtures} mixtures, {found.rows} rows, {found.rows - found.left} of them done; "
            f"about {minutes} min with {jobs} processes"
        ), []
    evaluate(
        protocol,
        systems,
        out,
        lips=listed(lips),
        metrics=metrics,
        limit=limit,
        jobs=jobs,
        dask_scheduler=dask_scheduler,
        progress=progress,
    )
    results = store.load_results(out)
    notes = failures(results)
    if not (results["status"] == store.DONE).any():
        raise InputError(f"{out}: nothing could be enhanced; {notes[0]}")
    if worst:
        write_worst(out, work, results, worst)
    return means_table(results), notes


def listed(text: str) -> tuple[str, ...]:
    """The parts of a text with commas, without blanks."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
