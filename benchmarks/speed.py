"""Cost of the papers' MCEM and VEM against floors: their bare decoder calls and likelihoods in plain torch.

    python benchmarks/speed.py
    python benchmarks/speed.py lips     # finding lips and their shape, of two unseen speakers
    python benchmarks/speed.py start    # until a command answers, by how long `import torch` takes
    python benchmarks/speed.py long     # files of 1 to 60 minutes: memory and time; a quarter hour
    python benchmarks/speed.py many     # 16 recordings: one by one, by enhance_many, in one batch

Everything is measured in one run, each figure the least of several repeats in turn, as ratios: machines
differ and are shared. Also: growth with duration, and peak memory for a recording of ten minutes (in its own
process). The part "lips" reads a video of each of GRID's s3 and s32 (360x288), in processor time: decoding,
face, crop, landmarks and shapes. Its data is looked for in AVSE_DATA (default ../shared/data).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import common
import numpy as np
import soundfile as sf
import torch

import avse
from avse.cli.commands import enhance_file
from avse.data.front_end import FrontEnd
from avse.data.lips import read_lips
from avse.data.lips.shape_front_end import LipShapeFrontEnd
from avse.data.stft import STFT
from avse.evaluation import benchmark
from avse.guides.base import SpeechGuide
from avse.inference.component_density import closed
from avse.inference.component_density import traced as by_traces
from avse.inference.mcmc.chain import Chain
from avse.inference.mcmc.log_density import traced
from avse.inference.presets import algorithm_named, papers_mcem, papers_vem
from avse.inference.vem.vem import VEM
from avse.models.base import SpeechModel
from avse.models.networks.spectrum import SpectrumDecoder
from avse.models.vae_mm import VAEMM
from avse.recording import Recording
from avse.zoo.pair import PairConfig, SpeechPair

RATE = 16000
PAPERS_PAIR = PairConfig(
    "a-vae",
    {"latent_size": 32, "encoder": (128,), "decoder": (128,), "features": "power"},
    FrontEnd(STFT(), "peak"),
)


def best(
    repeats: int, *tasks: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Least time of each task, seconds, wall time by default; they take turns, so that all share what the
    machine does."""
    times = [[] for _ in tasks]
    for _ in range(repeats):
        for task, own in zip(tasks, times, strict=True):
            start = clock()
            task()
            own.append(clock() - start)
    return [min(own) for own in times]


def decoded(decoder: SpectrumDecoder, z: torch.Tensor) -> torch.Tensor:
    """A bare decoder call: log sigma, (N, F)."""
    return decoder.output(torch.tanh(decoder.trunk[0](z)))


@torch.no_grad()
def mcem_floor(decoder: SpectrumDecoder, power: torch.Tensor, calls: int) -> None:
    """So many decoder calls and likelihood evaluations in plain torch, and nothing else."""
    noise = torch.full_like(power, 0.1)
    z = torch.randn(power.shape[0], decoder.trunk[0].in_features)
    for _ in range(calls):
        variance = decoded(decoder, z).exp() + noise
        -(variance.log() + power / variance).sum(-1)


@torch.no_grad()
def vem_floor(decoders: Sequence[SpectrumDecoder], power: torch.Tensor, chain: Chain) -> None:
    """The decoder calls that one iteration of VEM needs, in plain torch, and nothing else.

    The density of clean speech where the chain starts, since r(s) has changed, and at each proposal; and
    1 / sigma at the draws that are kept. In the papers' schedule that is 41 calls with a likelihood and 10
    with an exponential, of every decoder. Proposals, log p(z), acceptance, r(s), r(alpha), the noise and the
    free energy are not in it.
    """
    z = torch.randn(power.shape[0], decoders[0].trunk[0].in_features)
    for decoder in decoders:
        for _ in range(chain.num_steps + 1):
            log_variance = decoded(decoder, z)
            -(log_variance + power * torch.exp(-log_variance)).sum(-1)
        for _ in range(chain.num_steps - chain.warmup):
            torch.exp(-decoded(decoder, z))


def vem_iteration(vem: VEM, speech: SpeechModel, guide: SpeechGuide, power: torch.Tensor) -> float:
    """Least wall time of an iteration of VEM, all that is in it, seconds."""
    ends: list[float] = []
    generator = torch.Generator().manual_seed(0)
    vem(speech, guide, power, None, generator, lambda fraction: ends.append(time.perf_counter()))
    return min(end - start for start, end in pairwise(ends[:-1]))  # the last ends the final draws


def enhance_ten_minutes() -> None:
    """Enhance ten minutes of noise and print the peak memory of this process in GiB."""
    x = np.random.default_rng(0).standard_normal(600 * RATE).astype(np.float32)
    avse.enhance(x, RATE)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def start_times(repeats: int) -> None:
    """Print the wall time of whole processes over that of `import torch`, as machines differ."""
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "noise.wav"
        sf.write(sound, 0.1 * np.random.default_rng(0).standard_normal(5 * RATE), RATE)
        command = "from avse.cli.app import main; main()"
        calls: dict[str, tuple[float, list[str]]] = {
            "import torch": (1.0, ["import torch"]),
            "import avse": (0.1, ["import avse"]),
            "avse --help": (0.33, [command, "--help"]),
            "avse enhance of a missing file": (
                0.33,
                [command, "enhance", str(sound.with_name("absent.wav"))],
            ),
            "avse enhance of 5 s": (2.0, [command, "enhance", str(sound)]),
        }

        def started(arguments: list[str]) -> Callable[[], object]:
            return lambda: subprocess.run([sys.executable, "-c", *arguments], capture_output=True)

        torch_alone, *times = best(repeats, *(started(arguments) for _, arguments in calls.values()))
        print(f"import torch: {torch_alone:.2f} s")
        for (name, (limit, _)), spent in zip(list(calls.items())[1:], times, strict=True):
            show(f"{name} / import torch", spent / torch_alone, limit)


def enhance_one_file(path: Path) -> None:
    """Enhance a file into another; print the peak memory of this process in GiB and processor time in s."""
    start = time.process_time()
    enhance_file(path, path.with_name("enhanced.wav"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.process_time() - start)


def long_files(minutes: Sequence[float]) -> None:
    """Print memory and processor time of files of so many minutes, mono at 16 kHz, a process each."""
    draws, spent = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "noise.wav"
        for length in minutes:
            with sf.SoundFile(sound, "w", RATE, 1) as file:
                for _ in range(round(length * 60)):
                    file.write(0.1 * draws.uniform(0.3, 1) * draws.standard_normal(RATE))
            call = [sys.executable, __file__, "--one-file", str(sound)]
            child = subprocess.run(call, capture_output=True, text=True, check=True)
            peak, seconds = map(float, child.stdout.split())
            spent.append(seconds)
            print(f"{length:g} min: {seconds / length / 60:.3f} s of processor time a second", flush=True)
            show(f"peak memory for {length:g} min (GiB)", peak, 1.0)
    if len(minutes) > 1:
        exponent = np.polyfit(np.log(minutes), np.log(spent), 1)[0]
        show("exponent of the time in the length", float(exponent), 1.05)


def many_recordings(repeats: int) -> None:
    """Print what 16 recordings of 3 to 6 s cost in processor time: apart, together, and as one batch.

    The batch is of recordings of one length, without masks, so that it is the least that a batch can cost.
    Wall time on two processes is that after they have started.
    """
    draws = np.random.default_rng(0)
    sounds = [draws.standard_normal(int(seconds * RATE)) * 0.1 for seconds in np.linspace(3, 6, 16)]
    apart, together = best(
        repeats,
        lambda: [avse.enhance(sound, RATE) for sound in sounds],
        lambda: list(avse.enhance_many(sounds, RATE)),
        clock=time.process_time,
    )
    print(f"16 recordings one by one: {apart:.2f} s of processor time")
    show("enhance_many / one by one, processor time", together / apart, 0.95)

    def on_two() -> None:
        list(avse.enhance_many(sounds, RATE, jobs=2))

    on_two()
    wall_apart, wall_two = best(repeats, lambda: [avse.enhance(sound, RATE) for sound in sounds], on_two)
    print(f"throughput of two processes / one by one: {wall_apart / wall_two:.2f} on {os.cpu_count()} cores")

    own = Recording.prepare(sounds[8], RATE, avse.load("a-vae"))
    algorithm, _ = algorithm_named("amortised")

    def posterior(power: torch.Tensor) -> None:
        algorithm(own.speech, own.guide, power, None, torch.Generator().manual_seed(0), lambda fraction: None)

    batch = own.power.repeat(16, 1, 1)
    single, whole = best(
        repeats,
        lambda: [posterior(own.power) for _ in range(16)],
        lambda: posterior(batch),
        clock=time.process_time,
    )
    print(f"16 posteriors in one batch / one by one, processor time: {whole / single:.2f}")


def lips_throughput(repeats: int) -> None:
    """Print how many video frames a second of processor time become features of the shape of the mouth."""
    rows = benchmark.table_rows(common.recordings() / "splits.csv", "av", "validation")
    for speaker in ("s3", "s32"):
        path = min(path for path, own in rows if own == speaker)
        lips = read_lips(path)
        times = np.arange(0, lips.times[-1], 256 / RATE)
        found, described = best(
            repeats,
            partial(read_lips, path),
            partial(LipShapeFrontEnd().track, lips, times),
            clock=time.process_time,
        )
        count = len(lips.times)
        print(
            f"{speaker}: lips {count / found:.0f}, their shape {count / described:.0f} video frames a second"
        )
        show_least("lips and their shape, video frames a second", count / (found + described), 60.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["all", "lips", "start", "many", "long"], default="all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch; one, as `quality.py` runs")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 20, 60], help="of the part long")
    parser.add_argument("--one-file", type=Path, help="only enhance a file; used by the script")
    parser.add_argument("--ten-minutes", action="store_true", help="only measure memory; used by the script")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one_file:
        enhance_one_file(args.one_file)
        return
    if args.part == "lips":
        lips_throughput(args.repeats)
        return
    if args.part == "start":
        start_times(args.repeats)
        return
    if args.part == "long":
        long_files(args.minutes)
        return
    if args.part == "many":
        many_recordings(args.repeats)
        return
    if args.ten_minutes:
        enhance_ten_minutes()
        return

    x = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)
    pair, other = SpeechPair(PAPERS_PAIR), SpeechPair(PAPERS_PAIR)
    for modules in (pair.modules(), other.modules()):
        modules.eval().requires_grad_(False)
    spectrum, _ = PAPERS_PAIR.front_end.analysis(torch.from_numpy(x))
    power = spectrum.abs().square()
    paper = papers_mcem()
    paper = replace(paper, em=replace(paper.em, tolerance=0.0))  # all 100 iterations
    by_trace = replace(paper, em=replace(paper.em, joint=traced))

    base, direct, through_trace = best(
        args.repeats,
        lambda: mcem_floor(pair.model.decoder, power, 4000),
        lambda: avse.enhance(x, RATE, model=pair, algorithm=paper),
        lambda: avse.enhance(x, RATE, model=pair, algorithm=by_trace),
    )
    print(f"papers' MCEM on 5 s, papers' network, {args.threads} threads; floor {base:.2f} s")
    show("MCEM / floor", direct / base, 2.5)
    show("MCEM through the traced joint / floor", through_trace / base, 6.0)
    print(f"real-time factor of the papers' MCEM: {direct / 5:.2f}")

    vem, two = replace(papers_vem(), tolerance=0.0), VAEMM(pair.model, other.model)
    for name, speech, parts in (("one decoder", pair.model, [pair]), ("VAE-MM of two", two, [pair, other])):
        floors, whole = [], []
        for _ in range(args.repeats):
            decoders = [part.model.decoder for part in parts]
            floors += best(100, lambda decoders=decoders: vem_floor(decoders, power, vem.e_step))
            whole.append(vem_iteration(vem, speech, pair.guide, power))
        show(f"iteration of the papers' VEM / floor, {name}", min(whole) / min(floors), 1.5)

    for name, speech in (("A-VAE", pair.model), ("VAE-MM of two", two)):
        by_closed_form, by_trace = (
            replace(vem, conditioning=conditioning, iterations=20) for conditioning in (closed, by_traces)
        )
        iterations: list[tuple[float, float]] = [
            (
                vem_iteration(by_closed_form, speech, pair.guide, power),
                vem_iteration(by_trace, speech, pair.guide, power),
            )
            for _ in range(args.repeats)
        ]
        quick, slow = (min(times) for times in zip(*iterations, strict=True))
        show(f"iteration of the papers' VEM through traces / closed forms, {name}", slow / quick, 4.0)

    sounds = {seconds: np.resize(x, seconds * RATE) for seconds in (5, 20, 80)}
    tasks = [lambda sound=sound: avse.enhance(sound, RATE) for sound in sounds.values()]
    times = dict(zip(sounds, best(args.repeats, *tasks), strict=True))
    print("default algorithm, shipped A-VAE: seconds of work a second of sound")
    for seconds, spent in times.items():
        print(f"  {seconds:3d} s: {spent / seconds:.3f}")
    show("work a second at 80 s / at 20 s", times[80] / 80 / (times[20] / 20), 1.3)

    child = subprocess.run(
        [sys.executable, __file__, "--ten-minutes"], capture_output=True, text=True, check=True
    )
    show("peak memory for ten minutes (GiB)", float(child.stdout), 2.0)


def show(name: str, value: float, limit: float) -> None:
    print(f"{name}: {value:.2f} (at most {limit:g}): {'reached' if value <= limit else 'MISSED'}")


def show_least(name: str, value: float, limit: float) -> None:
    print(f"{name}: {value:.0f} (at least {limit:g}): {'reached' if value >= limit else 'MISSED'}")


if __name__ == "__main__":
    common.run(main)
