"""The command line: `avse enhance`, `diagnose`, `lips`, `train`, `models` and `demo`.

Every mistake of the user ends in exit code 2 and one line on stderr; nothing half-written is left behind.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from avse.cli.paths import enhanced_name, lips_name
from avse.data.errors import InputError
from avse.progress import progress_bar
from avse.version import __version__

app = typer.Typer(
    help="Unsupervised audio-visual speech enhancement with probabilistic models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console(stderr=True)

USER_ERROR = 2
RECIPE_NAMES = (
    "a-vae",
    "a-vae-all-clips",
    "v-vae",
    "av-vae",
    "min-vae-v1",
    "min-vae-v2",
    "vae-mm",
    "a-vae-paper",
    "v-vae-paper",
    "av-vae-paper",
)
"""What `avse train` knows; written out, as importing the recipes takes seconds."""


def main() -> None:
    """Run the command line; mistakes of the user end in exit code 2 and one line on stderr."""
    _prepare_process()
    try:
        app()
    except InputError as error:
        print(f"avse: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)


def _prepare_process() -> None:
    """Threads, figures and streams of a process that runs a command.

    One thread computes unless OMP_NUM_THREADS says otherwise: the matrices are small. Figures are only ever
    written to files, whatever MPLBACKEND says. Names of files are printed byte for byte, or escaped where
    the terminal's encoding does not have their characters.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    os.environ["MPLBACKEND"] = "agg"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            unicode = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if unicode else "backslashreplace")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"avse {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Unsupervised audio-visual speech enhancement with probabilistic models."""


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show each warning once, as one plain line."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)  # for programmers, and seldom about this package
        warnings.filterwarnings("ignore", module=r"(lightning|pyro|torch)\.")
        warnings.showwarning = lambda message, *rest, **more: show_note(message)
        yield


def show_note(text: object) -> None:
    """One line on stderr, whatever the width of the terminal and whatever brackets a file name holds."""
    console.print(f"note: {text}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def enhance(
    noisy: Annotated[Path, typer.Argument(help="Sound file, or video with sound, whose lips are used, too.")],
    video: Annotated[
        Path | None, typer.Option(help="Video of the speaker, or lips from it (.npz, .npy, .mat).")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Pictures a second of .npy or .mat lips.")] = None,
    video_offset: Annotated[float, typer.Option(help="Seconds by which the pictures come late.")] = 0.0,
    model: Annotated[str, typer.Option(help="Name (see `avse models`) or folder of a saved model.")] = "auto",
    algorithm: Annotated[str, typer.Option(help="mcem, vem, paper, paper-vem, ...")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write; default NOISY_enhanced.wav, or talk.mp4_enhanced.wav for talk.mp4."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    report: Annotated[Path | None, typer.Option("--json", help="Write a report of what was run.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write spectrograms and the objective trace.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    audio_track: Annotated[
        int | None, typer.Option(help="Number of the sound track of a video, from 0; default the first.")
    ] = None,
) -> None:
    """Enhance a noisy recording. The output has its length, rate and channels."""
    from avse.cli.commands import enhance_file

    destination = out or enhanced_name(noisy)
    with warnings_as_notes(), progress_bar("enhancing") as progress:
        summary = enhance_file(
            noisy,
            destination,
            video=video,
            fps=fps,
            video_offset=video_offset,
            model=model,
            algorithm=algorithm,
            seed=seed,
            device=device,
            report=report,
            figure=figure,
            audio_track=audio_track,
            progress=progress,
        )
    for note in summary["notes"]:
        show_note(note)
    print(destination)


@app.command()
def diagnose(
    noisy: Annotated[Path, typer.Argument(help="Sound file, or video with sound, whose lips are used, too.")],
    out: Annotated[Path, typer.Option(help="The report, one .html file.")],
    video: Annotated[
        Path | None, typer.Option(help="Video of the speaker, or lips from it (.npz, .npy, .mat).")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Pictures a second of .npy or .mat lips.")] = None,
    video_offset: Annotated[float, typer.Option(help="Seconds by which the pictures come late.")] = 0.0,
    model: Annotated[str, typer.Option(help="Name (see `avse models`) or folder of a saved model.")] = "auto",
    chains: Annotated[int, typer.Option(help="Chains of every frame, at least 2.")] = 4,
    draws: Annotated[int, typer.Option(help="Draws kept of each, at least 4.")] = 200,
    warmup: Annotated[
        int | None, typer.Option("--warmup", "--warm-up", help="Moves before them; default as many as draws.")
    ] = None,
    leapfrog_steps: Annotated[int, typer.Option(help="Of every move: more reach farther.")] = 10,
    seconds: Annotated[float, typer.Option(help="How much of the recording, from its start.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
) -> None:
    """Sample the speech of a noisy recording at length, and say whether the chains can be trusted."""
    from avse.cli.commands import diagnose_file

    with warnings_as_notes(), progress_bar("sampling") as progress:
        said = diagnose_file(
            noisy,
            out,
            video=video,
            fps=fps,
            video_offset=video_offset,
            model=model,
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
    out: Annotated[Path | None, typer.Option(help="Where to write; default VIDEO_lips.npz.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write a contact sheet of what was cut out.")] = None,
) -> None:
    """Cut the speaker's mouth out of a video: 67x67 grey pictures with time stamps and validity."""
    from avse.cli.commands import read_lips_file

    destination = out or lips_name(video)
    with warnings_as_notes(), console.status("reading lips"):
        counts = read_lips_file(video, destination, figure)
    console.print(", ".join(f"{reason}: {count}" for reason, count in counts.items() if count))
    print(destination)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="MODEL", help=f"{', '.join(RECIPE_NAMES)}; with -paper for the papers' nets.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; the trained pair is saved in OUT/pair.")],
    corpus: Annotated[str, typer.Option(help="folder, grid, ntcd-timit or synthetic.")] = "synthetic",
    root: Annotated[Path | None, typer.Option(help="Folder of the corpus.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many, instead of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, batches and draws.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of cached spectra.")] = None,
) -> None:
    """Train a model on clean speech; noise is never needed."""
    from avse.cli.commands import train_model

    with warnings_as_notes(), redirect_stdout(sys.stderr):
        summary = train_model(
            recipe, corpus, root, out, epochs=epochs, seed=seed, device=device, resume=resume, cache=cache
        )
    print(json.dumps(summary))


@app.command()
def models() -> None:
    """List the trained models that come with the package."""
    from avse.zoo import load, shipped

    rows = [("name", "architecture", "STFT window/hop", "parameters", "folder", "for")]
    for name, folder in shipped().items():
        pair = load(name)
        stft = pair.stft
        count = sum(tensor.numel() for tensor in pair.modules().state_dict().values())
        rows.append(
            (
                name,
                pair.config.architecture,
                f"{stft.window_length}/{stft.hop_length} at {stft.sample_rate} Hz",
                f"{count:,}",
                str(folder),
                _purpose(pair.card),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _purpose(card: str) -> str:
    """The title of a model card, without the name before its colon."""
    titles = [line.lstrip("# ") for line in card.splitlines() if line.startswith("# ")]
    return titles[0].partition(": ")[2] if titles else ""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the sentence, the noise and the enhancement.")] = 0,
) -> None:
    """Make a noisy talking face without any download, enhance it, and show before and after."""
    from avse.cli.commands import run_demo

    with warnings_as_notes(), progress_bar("enhancing") as progress:
        metrics, written = run_demo(out, seed, progress)
    table = Table("", *metrics["noisy"])
    for name, values in metrics.items():
        table.add_row(name, *(f"{value:.2f}" for value in values.values()))
    Console().print(table)
    for path in written:
        print(path)
