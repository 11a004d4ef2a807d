"""Cost of the papers' MCEM against the floor: its bare decoder calls and likelihoods in plain torch.

    python benchmarks/speed.py

Everything is measured in one run, each figure the least of several repeats, as ratios: machines differ and
are shared. Also: growth with duration, and peak memory for a recording of ten minutes (in its own process).
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import avse
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT
from avse.inference.joint import traced
from avse.inference.mcem import papers_mcem
from avse.pair import PairConfig, SpeechPair

RATE = 16000
PAPERS_PAIR = PairConfig(
    "a-vae",
    {"latent_size": 32, "encoder": (128,), "decoder": (128,), "features": "power"},
    FrontEnd(STFT(), "peak"),
)


def best(task: Callable[[], object], repeats: int) -> float:
    """Least wall time of several runs, seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return min(times)


def floor(pair: SpeechPair, power: torch.Tensor, calls: int) -> None:
    """So many decoder calls and likelihood evaluations in plain torch, and nothing else."""
    decoder = pair.model.decoder
    hidden, output = decoder.trunk[0], decoder.output
    noise = torch.full_like(power, 0.1)
    z = torch.randn(power.shape[0], hidden.in_features)
    with torch.no_grad():
        for _ in range(calls):
            log_variance = output(torch.tanh(hidden(z)))
            variance = log_variance.exp() + noise
            -(variance.log() + power / variance).sum(-1)


def enhance_ten_minutes() -> None:
    """Enhance ten minutes of noise and print the peak memory of this process in GiB."""
    x = np.random.default_rng(0).standard_normal(600 * RATE).astype(np.float32)
    avse.enhance(x, RATE)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch; one, as `quality.py` runs")
    parser.add_argument("--ten-minutes", action="store_true", help="only measure memory; used by the script")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.ten_minutes:
        enhance_ten_minutes()
        return

    x = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)
    pair = SpeechPair(PAPERS_PAIR)
    pair.modules().eval().requires_grad_(False)
    power = pair.stft.analysis(torch.from_numpy(x)).abs().square()
    paper = papers_mcem()
    paper = replace(paper, em=replace(paper.em, tolerance=0.0))  # all 100 iterations
    by_trace = replace(paper, em=replace(paper.em, joint=traced))

    base = best(lambda: floor(pair, power, 4000), args.repeats)
    direct = best(lambda: avse.enhance(x, RATE, model=pair, algorithm=paper), args.repeats)
    through_trace = best(lambda: avse.enhance(x, RATE, model=pair, algorithm=by_trace), args.repeats)
    print(f"papers' MCEM on 5 s, papers' network, {args.threads} threads; floor {base:.2f} s")
    show("MCEM / floor", direct / base, 2.5)
    show("MCEM through the traced joint / floor", through_trace / base, 6.0)
    print(f"real-time factor of the papers' MCEM: {direct / 5:.2f}")

    times = {
        seconds: best(lambda seconds=seconds: avse.enhance(np.resize(x, seconds * RATE), RATE), args.repeats)
        for seconds in (5, 20, 80)
    }
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


if __name__ == "__main__":
    main()
