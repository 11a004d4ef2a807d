"""What lips add to the enhancement of real talking faces in real noise.

    python benchmarks/lips.py                               # s1 test sentences, A-VAE beside AV-VAE
    python benchmarks/lips.py --systems a av shuffled other unseen v --share 4     # negative controls
    python benchmarks/lips.py --systems a-paper av-paper --levels -5 --share 3     # the papers' schedule
    python benchmarks/lips.py --systems a-paper-g1 av-paper-g1 --levels -5 --share 3    # with g = 1
    python benchmarks/lips.py --speakers s30 s34 --systems a auto       # speakers that no model has seen
    python benchmarks/lips.py --speakers s30 s34 --systems a auto small large shifted rolled dark bright \
        blurred
    python benchmarks/lips.py --speakers s30 s34 --systems a auto ntcd --share 4    # files as of NTCD-TIMIT

A-VAE and AV-VAE are trained on the same clips. Noise: cafe, street, babble, white. The data is looked for
in AVSE_DATA (default ../shared/data); lips are cached (see `avse.data.caches.default_cache`). Prints
improvements over the noisy input, the gain of every system over the first, and writes them to
benchmarks/results/.
"""

import argparse
import os
import time
import warnings
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import common
import numpy as np
from numpy.typing import NDArray
from quality import noises
from scipy import ndimage

import avse
from avse.data.caches import LipsCache, default_cache
from avse.data.corpora.folder import file_utterance
from avse.data.corpora.ntcd_timit import FPS
from avse.data.lips import Lips, Reason
from avse.data.lips.files import load_lips_array, save_ntcd_timit_lips
from avse.evaluation import benchmark, tables
from avse.evaluation.scores import save_scores, scored
from avse.inference.presets import papers_mcem
from avse.progress import progress_bar

NOISES = ("cafe", "street", "babble", "white")
LEVELS = (-10.0, -5.0, 0.0, 5.0)
A, AV, V = "a-vae", "av-vae", "v-vae"


def read(clip: str) -> Lips:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LipsCache(default_cache()).lips(file_utterance(Path(clip), "", "test"))


def own(clip: str, clips: list[str]) -> Lips:
    return read(clip)


def other(clip: str, clips: list[str]) -> Lips:
    """The lips of another sentence of the same speaker."""
    mates = [each for each in clips if Path(each).parent == Path(clip).parent]
    return read(mates[(mates.index(clip) + len(mates) // 2) % len(mates)])


def reordered(lips: Lips, order: NDArray[np.int_]) -> Lips:
    """The video frames in another order, at the same times."""
    return Lips(lips.images[order], lips.times, lips.reasons[order], lips.fps)


def shuffled(clip: str, clips: list[str]) -> Lips:
    """The right video frames in a random order."""
    lips = read(clip)
    return reordered(lips, np.random.default_rng(0).permutation(len(lips.images)))


def unseen(clip: str, clips: list[str]) -> Lips:
    """A video in which nobody is seen."""
    lips = read(clip)
    return Lips(lips.images, lips.times, np.full_like(lips.reasons, Reason.NO_FACE), lips.fps)


def changed(
    clip: str,
    clips: list[str],
    scale: float = 1.0,
    shift: float = 0.0,
    roll: float = 0.0,
    contrast: float = 1.0,
    brightness: float = 0.0,
    blur: float = 0.0,
) -> Lips:
    """The right pictures, cropped or lit otherwise: scale, shift in pixels, roll in degrees, grey levels,
    blur."""
    lips = read(clip)
    angle, middle = np.deg2rad(roll), (lips.images.shape[-1] - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    offset = middle - turn @ np.full(2, middle + shift)
    images = []
    for image in lips.images.astype(np.float32):
        moved = ndimage.affine_transform(image, turn, offset, order=1, mode="nearest")
        images.append(ndimage.gaussian_filter(contrast * moved + brightness, blur))
    grey = np.clip(np.rint(images), 0, 255).astype(np.uint8)
    return Lips(grey, lips.times, lips.reasons, lips.fps)


def ntcd(clip: str, clips: list[str]) -> Lips:
    """The right lips as read from a file in the format of NTCD-TIMIT: at its rate, none marked as bad."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lips.mat"
        save_ntcd_timit_lips(path, read(clip))
        return load_lips_array(path, FPS)


CHANGES: dict[str, dict[str, float]] = {
    "small": {"scale": 0.7},
    "large": {"scale": 1.4},
    "shifted": {"shift": 8.0},
    "rolled": {"roll": 20.0},
    "dark": {"contrast": 0.4},
    "bright": {"contrast": 1.3, "brightness": 40.0},
    "blurred": {"blur": 2.0},
}

SYSTEMS = {
    "auto": ("auto", "auto", own),
    **{name: ("auto", "auto", partial(changed, **how)) for name, how in CHANGES.items()},
    "ntcd": ("auto", "auto", ntcd),
    "auto-shuffled": ("auto", "auto", shuffled),
    "auto-other": ("auto", "auto", other),
    "a": (A, "auto", None),
    "av": (AV, "auto", own),
    "v": (V, "auto", own),
    "shuffled": (AV, "auto", shuffled),
    "other": (AV, "auto", other),
    "unseen": (AV, "auto", unseen),
    "a-paper": (A, "paper", None),
    "av-paper": (AV, "paper", own),
    "a-paper-g1": (A, papers_mcem(frame_gain=False), None),
    "av-paper-g1": (AV, papers_mcem(frame_gain=False), own),
}


def enhanced(
    mixture: np.ndarray, spec: benchmark.MixtureSpec, system: str, clips: list[str]
) -> benchmark.Samples:
    model, algorithm, lips = SYSTEMS[system]
    video = None if lips is None else lips(spec.clip, clips)
    return avse.enhance(
        mixture, benchmark.RATE, video=video, model=model, algorithm=algorithm, seed=spec.seed
    ).speech


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--speakers", nargs="+", default=["s1"])
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=["a", "av"])
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS)
    parser.add_argument("--share", type=int, default=1, help="take every so-manyth mixture")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    rows = benchmark.table_rows(common.recordings() / "splits.csv", "av", args.split)
    clips = [path for path, speaker in rows if speaker in args.speakers]
    names = [str(path) for path in clips]
    specs = benchmark.cross(clips, noises(NOISES), args.levels, args.seed, args.share)
    start = time.perf_counter()
    systems = {name: partial(enhanced, system=name, clips=names) for name in args.systems}
    with progress_bar("mixtures") as progress:
        scores = scored(specs, systems, args.jobs, progress)
    minutes = (time.perf_counter() - start) / 60
    print(f"{len(specs)} mixtures of {', '.join(args.speakers)} ({args.split}) in {minutes:.1f} min\n")

    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"lips_{args.split}_{'-'.join(args.speakers)}_{'_'.join(args.systems)}"
    save_scores(args.out / f"{stem}.jsonl", scores)
    parts = [tables.systems_table(scores)]
    if len(args.systems) > 1:
        parts.append(tables.differences_table(scores, args.systems[0]))
    (args.out / f"{stem}.md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    common.run(main)
