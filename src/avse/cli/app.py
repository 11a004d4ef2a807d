"""The command line: `avse enhance`, `diagnose`, `lips`, `train`, `evaluate`, `report`, `compare`,
`models`, `show` and `demo`.

Every mistake of the user ends in exit code 2 and one line on stderr; nothing half-written is left behind.
"""

import io
import json
import os
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from avse.data.errors import InputError
from avse.data.files import check_destination, check_source
from avse.data.folders import copies, is_many
from avse.progress import progress_bar
from avse.version import __version__

if TYPE_CHECKING:
    from avse.many import Outcome

app = typer.Typer(
    help="Unsupervised audio-visual speech enhancement with probabilistic models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console(stderr=True)

USER_ERROR = 2
CONTROL_CATEGORIES = ("Cc", "Zl", "Zp")
"""Unicode categories of characters that move the cursor or end a line."""
BIDIRECTIONAL_CONTROLS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Bidirectional classes of characters that turn the direction of the text after them."""

RECIPE_NAMES = (
    "a-vae",
    "a-vae-all-clips",
    "a-vae-context",
    "v-vae",
    "av-vae",
    "min-vae-v1",
    "min-vae-v2",
    "vae-mm",
    "vae-mm-context",
    "a-v-av",
    "rvae",
    "dkf",
    "av-dkf",
    "visual-prior",
    "a-vae-paper",
    "v-vae-paper",
    "av-vae-paper",
    "av-vae-standard-paper",
    "vae-mm-paper",
    "min-vae-v1-paper",
    "min-vae-v2-paper",
)
"""Of `avse.zoo.recipes.RECIPES`, whose import takes seconds; a test compares them."""


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"avse {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Unsupervised audio-visual speech enhancement with probabilistic models."""


def default_output(noisy: Path) -> Path:
    """NAME_enhanced.wav for NAME.wav, FILE.enhanced.wav for any other FILE: no two files share one."""
    name = f"{noisy.stem}_enhanced" if noisy.suffix == ".wav" else f"{noisy.name}.enhanced"
    return noisy.parent / f"{name}.wav"


def default_lips(video: Path) -> Path:
    """NAME_lips.npz for NAME.mp4, FILE.lips.npz for any other FILE: no two files share one."""
    name = f"{video.stem}_lips" if video.suffix == ".mp4" else f"{video.name}.lips"
    return video.parent / f"{name}.npz"


def main() -> None:
    """Run the command line; mistakes of the user end in exit code 2 and one line on stderr."""
    # Before torch is imported, which reads it. The matrices are small: more threads only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; a notebook's backend may be missing here
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            utf8 = stream.encoding.lower() in ("utf-8", "utf8")  # there, names are printed byte for byte
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    try:
        app()
    except InputError as error:
        print(f"avse: {one_line(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)


def one_line(text: object) -> str:
    """The text with line breaks and other control characters written out, which names of files may hold."""
    return "".join(repr(sign)[1:-1] if _is_control(sign) else sign for sign in str(text))


def _is_control(sign: str) -> bool:
    return (
        unicodedata.category(sign) in CONTROL_CATEGORIES
        or unicodedata.bidirectional(sign) in BIDIRECTIONAL_CONTROLS
    )


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show each warning once, as one plain line."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)  # addressed to programmers
        warnings.filterwarnings("ignore", module=r"(lightning|pyro|torch)\.")
        warnings.showwarning = lambda message, *rest, **more: show_note(message)
        yield


def show_note(text: object) -> None:
    """One line on stderr, whatever the width of the terminal and whatever brackets a file name holds."""
    console.print(f"note: {one_line(text)}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def enhance(
    noisy: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Sound file, or video with sound, whose lips are used, too; or several, folders of them, or "
            "patterns such as 'speaker*/*.wav'."
        ),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="Video of the speaker, or lips from it (.npz, .npy, .mat).")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Video frames per second of .npy or .mat lips.")] = None,
    video_offset: Annotated[float, typer.Option(help="Delay of the video behind the sound in s.")] = 0.0,
    model: Annotated[str, typer.Option(help="Name (see `avse models`) or folder of a saved model.")] = "auto",
    algorithm: Annotated[str, typer.Option(help="mcem, mcmc, vem, paper, paper-vem, ...")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write; default NAME_enhanced.wav, for others than .wav FILE.enhanced.wav. For "
            "several recordings a folder, which mirrors their names and subfolders."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes for several recordings.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    report: Annotated[Path | None, typer.Option("--json", help="Write a report of what was run.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw spectrograms, gain and objective.")] = None,
    audio_track: Annotated[int | None, typer.Option(help="Sound track, from 0; default the first.")] = None,
    link_channels: Annotated[
        bool | None,
        typer.Option(help="One filter for all channels; default for two channels, the stereo image stays."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Live: PCM from stdin to stdout, at most half a second late."),
    ] = False,
    rate: Annotated[int, typer.Option(help="Of --stream: samples a second.")] = 16000,
    channels: Annotated[int, typer.Option(help="Of --stream: interleaved channels.")] = 1,
    sample_format: Annotated[str, typer.Option(help="Of --stream: s16le or f32le.")] = "s16le",
) -> None:
    """Enhance noisy recordings. Each output has the length, rate and channels of its input.

    Of several recordings those are skipped whose output is there, so that the same command goes on where it
    was interrupted; one that fails does not stop the others.
    """
    one_file = {"--video": video, "--fps": fps, "--json": report, "--figure": figure}
    if stream:
        refuse_options({"NOISY": noisy, "--out": out, **one_file}, "--stream reads stdin and writes stdout")
        from avse.cli.live import enhance_pcm

        enhance_pcm(
            sys.stdin.buffer,
            sys.stdout.buffer,
            show_note,
            rate=rate,
            channels=channels,
            sample_format=sample_format,
            model=model,
            algorithm=algorithm,
            seed=seed,
            link_channels=link_channels,
            device=device,
        )
        return
    if not noisy:
        raise InputError("nothing to enhance: give a sound file, a video, a folder or a pattern, or --stream")
    if len(noisy) > 1 or is_many(noisy[0]):
        refuse_options(one_file, "several recordings are given, and that is for one")
        if out is None:
            raise InputError(f"{noisy[0]}: several recordings need a folder to go to; give --out")
        work = copies(noisy, out)
        from avse.cli.many import enhance_copies

        with warnings_as_notes(), progress_bar("enhancing") as progress:
            show_outcomes(
                enhance_copies(
                    work,
                    out,
                    video_offset=video_offset,
                    model=model,
                    algorithm=algorithm,
                    seed=seed,
                    audio_track=audio_track,
                    link_channels=link_channels,
                    device=device,
                    jobs=jobs,
                    progress=progress,
                ),
                len(work),
            )
        return
    source = noisy[0]
    check_source(source, "a sound file or a video")
    from avse.cli.commands import enhance_file

    destination = out or default_output(source)
    with warnings_as_notes(), progress_bar("enhancing") as progress:
        summary = enhance_file(
            source,
            destination,
            video=video,
            fps=fps,
            video_offset=video_offset,
            model=model,
            algorithm=algorithm,
            seed=seed,
            audio_track=audio_track,
            link_channels=link_channels,
            device=device,
            report=report,
            figure=figure,
            progress=progress,
        )
    for note in summary["notes"]:
        show_note(note)
    print(destination)


def refuse_options(given: Mapping[str, object], reason: str) -> None:
    """Refuse what does not go together.

    Raises:
        InputError: one of the values, by name, is neither None nor empty.
    """
    for name, value in given.items():
        if value:
            raise InputError(f"{name}: {reason}; leave it out")


def show_outcomes(outcomes: "Iterator[Outcome]", total: int) -> None:
    """Print the outputs as they come, then what was skipped and what failed.

    Raises:
        typer.Exit: with the code of a mistake of the user, as some recordings failed.
    """
    failures, skipped = [], 0
    for outcome in outcomes:
        for note in (outcome.report or {}).get("notes", ()):
            show_note(f"{outcome.source}: {note}")
        if outcome.status == "failed":
            failures.append(outcome)
        elif outcome.status == "skipped":
            skipped += 1
        else:
            print(outcome.output, flush=True)
    if skipped:
        show_note(f"{skipped} of {total} recordings were skipped, as their outputs are there")
    if failures:
        show_note(f"{len(failures)} of {total} recordings could not be enhanced:")
        for outcome in failures:
            error = outcome.error or ""
            named = error.startswith(str(outcome.source))
            print(f"avse: {one_line(error if named else f'{outcome.source}: {error}')}", file=sys.stderr)
        raise typer.Exit(USER_ERROR)


@app.command()
def diagnose(
    noisy: Annotated[Path, typer.Argument(help="Sound file, or video with sound, whose lips are used, too.")],
    out: Annotated[Path, typer.Option(help="The report, one .html file.")],
    video: Annotated[
        Path | None, typer.Option(help="Video of the speaker, or lips from it (.npz, .npy, .mat).")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Video frames per second of .npy or .mat lips.")] = None,
    video_offset: Annotated[float, typer.Option(help="Delay of the video behind the sound in s.")] = 0.0,
    model: Annotated[str, typer.Option(help="Name (see `avse models`) or folder of a saved model.")] = "auto",
    algorithm: Annotated[
        str, typer.Option(help="Fits the noise before the chains; auto, or a name as for `avse enhance`.")
    ] = "auto",
    chains: Annotated[
        int,
        typer.Option(help="Chains per frame, at least 2; 0 takes the draws of an MCMC or MCEM --algorithm."),
    ] = 4,
    draws: Annotated[int, typer.Option(help="Draws kept per chain, at least 4.")] = 200,
    warmup: Annotated[int | None, typer.Option(help="Warmup steps; default as many as draws.")] = None,
    leapfrog_steps: Annotated[
        int, typer.Option(help="Leapfrog steps per HMC step; more give longer trajectories.")
    ] = 10,
    seconds: Annotated[float, typer.Option(help="Length of the analysed part, from the start.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
) -> None:
    """Draw long chains from the posterior of a noisy recording and report whether they have converged."""
    check_source(noisy, "a sound file or a video")
    from avse.cli.commands import diagnose_file

    with warnings_as_notes(), progress_bar("sampling") as progress:
        said = diagnose_file(
            noisy,
            out,
            video=video,
            fps=fps,
            video_offset=video_offset,
            model=model,
            algorithm=algorithm,
            chains=chains,
            draws=draws,
            warmup=warmup,
            leapfrog_steps=leapfrog_steps,
            seconds=seconds,
            seed=seed,
            progress=progress,
        )
    for line in said.splitlines():
        show_note(line)
    print(out)


@app.command()
def lips(
    video: Annotated[Path, typer.Argument(help="Video of one speaker.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write; default NAME_lips.npz, for others than .mp4 FILE.lips.npz."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw mouths, landmarks and their curves over the level of the sound.")
    ] = None,
) -> None:
    """Crop the speaker's mouth from a video: 67x67 grey images with time stamps and validity."""
    from avse.cli.commands import read_lips_file

    destination = out or default_lips(video)
    with warnings_as_notes(), console.status("reading lips"):
        counts = read_lips_file(video, destination, figure)
    console.print(", ".join(f"{reason}: {count}" for reason, count in counts.items() if count))
    print(destination)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="MODEL", help=f"One of {', '.join(RECIPE_NAMES)}.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the trained pair is saved in OUT/pair.")],
    corpus: Annotated[str, typer.Option(help="folder, grid, ntcd-timit or synthetic.")] = "synthetic",
    root: Annotated[Path | None, typer.Option(help="Folder of the corpus.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Maximum number of epochs; default that of the recipe.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and draws.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or any Lightning accelerator.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    corruption: Annotated[
        bool, typer.Option(help="Corrupt the sound that the encoder reads, where the recipe does.")
    ] = True,
    cache: Annotated[Path | None, typer.Option(help="Folder of cached spectra.")] = None,
    licence: Annotated[
        str, typer.Option(help="Of the weights, for their card, such as cc-by-4.0; it depends on the speech.")
    ] = "unknown",
) -> None:
    """Train a model on clean speech; noise is never needed."""
    from avse.cli.commands import train_model

    # Lightning's progress goes to stderr: stdout holds the summary alone.
    with warnings_as_notes(), redirect_stdout(sys.stderr):
        try:
            summary = train_model(
                recipe,
                corpus,
                root,
                out,
                epochs=epochs,
                seed=seed,
                device=device,
                resume=resume,
                corruption=corruption,
                cache=cache,
                licence=licence,
            )
        except KeyboardInterrupt:
            show_note(f"{out}: interrupted; the same command with --resume goes on from the last whole epoch")
            raise
    print(json.dumps(summary))


@app.command()
def evaluate(
    corpus: Annotated[str, typer.Option(help="grid, ntcd-timit, voicebank-demand, folder or synthetic.")],
    out: Annotated[Path, typer.Option(help="Folder of the results; a run that was stopped goes on there.")],
    root: Annotated[Path | None, typer.Option(help="Folder of the corpus.")] = None,
    models: Annotated[str, typer.Option(help="Names or folders of models, with commas.")] = "auto",
    algorithms: Annotated[str, typer.Option(help="With commas; auto is each model's own.")] = "auto",
    noises: Annotated[str, typer.Option(help="Types, with commas; default those of the corpus.")] = "",
    snrs: Annotated[
        str | None, typer.Option(help="Levels in dB, with commas; default -15,-10,-5,0,5,10.")
    ] = None,
    lips: Annotated[
        str, typer.Option(help="What models with lips are shown: clean, degraded, none, with commas.")
    ] = "",
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    speakers: Annotated[str, typer.Option(help="Only these, with commas.")] = "",
    noise_root: Annotated[
        Path | None, typer.Option(help="Folder of noises for the corpus folder, one folder a type.")
    ] = None,
    level_definition: Annotated[
        str, typer.Option(help="broadband, or speech-active by ITU-T P.56.")
    ] = "broadband",
    share: Annotated[
        int | None, typer.Option(help="One mixture in so many, balanced; default 9 for grid, else 1.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="So many mixtures, drawn at random.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes on this machine.")] = 1,
    dask_scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers compute.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of noise excerpts and of all random draws.")] = 0,
    dnsmos: Annotated[bool, typer.Option("--dnsmos", help="Compute DNSMOS, too.")] = False,
    worst: Annotated[int, typer.Option(help="Keep the sounds of so many worst mixtures a model.")] = 3,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count and estimate the time; nothing is written.")
    ] = False,
) -> None:
    """Measure models on noisy mixtures of a corpus: PESQ, STOI, SDR and more, before and after."""
    from avse.cli.evaluation import evaluate_corpus

    with warnings_as_notes(), progress_bar("evaluating") as progress:
        try:
            text, notes = evaluate_corpus(
                corpus,
                root,
                out,
                models=models,
                algorithms=algorithms,
                noises=noises,
                snrs=snrs,
                lips=lips,
                split=split,
                speakers=speakers,
                noise_root=noise_root,
                level_definition=level_definition,
                share=share,
                limit=limit,
                jobs=jobs,
                dask_scheduler=dask_scheduler,
                seed=seed,
                dnsmos=dnsmos,
                worst=worst,
                dry_run=dry_run,
                progress=progress,
            )
        except KeyboardInterrupt:
            show_note(f"{out}: interrupted; the same command goes on from the rows that are done")
            raise
    for note in notes:
        show_note(note)
    print(text)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `avse evaluate` filled.")],
    out: Annotated[Path | None, typer.Option(help="The page; default DIR/report.html.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Folder for figures (.pdf) and tables (.md, .tex, .csv) as files, too."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="MODEL or MODEL:ALGORITHM that others are compared with; default the first."),
    ] = None,
) -> None:
    """Write figures, tables and the worst mixtures of an evaluation as one page."""
    from avse.cli.results import report_results

    with warnings_as_notes(), progress_bar("reporting") as progress:
        page, files = report_results(results, out, export=export, baseline=baseline, progress=progress)
    for path in (page, *files):
        print(path)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of the baseline's results.")],
    b: Annotated[
        Path | None, typer.Argument(metavar="[B]", help="Folder of other results; default A itself.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="MODEL or MODEL:ALGORITHM of B to compare.")] = None,
    baseline: Annotated[str | None, typer.Option(help="The one of A to compare it with.")] = None,
    lips: Annotated[str | None, typer.Option(help="Only clean, degraded or none; default all.")] = None,
    fail_on_loss: Annotated[
        str, typer.Option(help="Metrics, with commas: exit code 1 where one is significantly worse.")
    ] = "",
    values: Annotated[Path | None, typer.Option("--json", help="Write the differences as JSON, too.")] = None,
) -> None:
    """Say how two runs, or two models of one run, differ on the mixtures that both enhanced."""
    from avse.cli.commands import write_json
    from avse.cli.evaluation import listed
    from avse.cli.results import compare_results, losses, plain_values

    with warnings_as_notes():
        found = compare_results(a, b, model=model, baseline=baseline, lips=lips)
        lost = losses(found, list(listed(fail_on_loss))) if fail_on_loss else []
    for each in found:
        for sentence in each.sentences():
            print(sentence)
    if values is not None:
        write_json(values, {"comparisons": [plain_values(each) for each in found]})
    for sentence in lost:
        show_note(f"loss: {sentence}")
    if lost:
        raise typer.Exit(1)


@app.command()
def models() -> None:
    """List the trained models that come with the package."""
    from avse.zoo import load, shipped

    for name in shipped():
        pair = load(name)
        count = sum(tensor.numel() for tensor in pair.modules().state_dict().values())
        heading = next((line for line in pair.card.splitlines() if line.startswith("# ")), "")
        purpose = heading.partition(": ")[2]
        print(f"{name:18}{pair.config.architecture:18}{count:>10,}  {purpose}")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Name (see `avse models`) or folder of a saved model.")],
    figure: Annotated[
        Path | None, typer.Option(help="Draw the plate diagram: .svg, .png, .pdf, or .dot for its source.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="Only speech, noisy or guide; by default all, and the diagram of noisy."),
    ] = None,
) -> None:
    """Print the generative story of a model: its sample sites in order, with their shapes."""
    from avse.plates import check_diagram_format

    if figure is not None:
        check_destination(figure)
        check_diagram_format(figure)
    from avse.story import show as shown

    with warnings_as_notes():
        found = shown(model)
        text = str(found if part is None else found.story(part))
        if figure is not None:
            found.save(figure, part)
    for line in text.splitlines():
        print(one_line(line))
    if figure is not None:
        print(figure)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the sentence, the noise and the enhancement.")] = 0,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve a page to play with: own recordings, models, priors.")
    ] = False,
    host: Annotated[
        str, typer.Option(help="Of --serve: address to listen on; only this machine by default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of --serve: 0 for any free one.")] = 8765,
) -> None:
    """Make a noisy talking face without any download, enhance it, and show before and after."""
    if serve:
        from avse.cli.commands import serve_demo

        with warnings_as_notes():
            show_note("starting, which takes some seconds")
            serve_demo(host, port, seed, lambda address: print(f"{address}  (Ctrl-C ends it)", flush=True))
        return
    from rich.table import Table

    from avse.cli.commands import run_demo

    with warnings_as_notes(), progress_bar("enhancing") as progress:
        metrics, written = run_demo(out, seed, progress)
    table = Table("", *metrics["noisy"])
    for name, values in metrics.items():
        table.add_row(name, *(f"{value:.2f}" for value in values.values()))
    Console().print(table)
    for path in written:
        print(path)
