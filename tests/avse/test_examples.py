"""Every example runs, with tiny settings, and is short."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from matplotlib import cbook
from matplotlib.image import imread

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ARGUMENTS = {
    "compare_models.py": ["--seconds", "0.1", "--warmup", "1", "--draws", "7", "--samples", "25"],
    "compare_samplers.py": [
        "--seconds",
        "0.3",
        "--moves",
        "8",
        "--nuts-moves",
        "4",
        "--figure",
        "figure.png",
    ],
    "enhance_a_recording.py": ["--out", "out.wav", "--figure", "figure.png"],
    "enhance_a_video.py": ["--out", "out.wav", "--figure", "figure.png"],
    "evaluate_your_own_model.py": ["--limit", "1", "--out", "results"],
    "full_bayes_noise.py": [
        *("--seconds", "0.5", "--draws", "6", "--max-tree-depth", "2"),
        *("--figure", "figure.png"),
    ],
    "linear_gaussian_em.py": ["--frames", "30", "--iterations", "3", "--figure", "figure.png"],
    "lips_help_at_low_snr.py": ["--voices", "1", "--levels", "-5", "--figure", "figure.png"],
    "inspect_the_posterior.py": [
        *("--seconds", "0.3", "--draws", "25", "--warmup", "5", "--leapfrog-steps", "2", "--chains", "2"),
        *("--figures", "figures"),
    ],
    "svi_in_plain_pyro.py": ["--epochs", "2", "--out", "pair", "--figure", "figure.png"],
    "swap_the_guide.py": ["--speakers", "3", "--sentences", "2", "--epochs", "2", "--figure", "figure.png"],
    "swap_the_prior.py": [*("--seconds", "0.5", "--algorithms", "mcem", "vem"), *("--figure", "figure.png")],
    "temporal_prior.py": [
        *("--sentences", "3", "--frames", "12", "--burst", "4", "--draws", "6", "--figure", "figure.png"),
    ],
    "train_a_vae.py": ["--speakers", "3", "--sentences", "2", "--epochs", "2", "--out", "run"],
    "train_av_vae.py": ["--speakers", "3", "--sentences", "2", "--epochs", "2", "--out", "run"],
}
WRITES = {
    "compare_models.py": [],
    "compare_samplers.py": ["figure.png"],
    "enhance_a_recording.py": ["out.wav", "figure.png"],
    "enhance_a_video.py": ["out.wav", "figure.png"],
    "evaluate_your_own_model.py": ["results/results.sqlite", "results/evaluation.json"],
    "full_bayes_noise.py": ["figure.png"],
    "linear_gaussian_em.py": ["figure.png"],
    "lips_help_at_low_snr.py": ["figure.png"],
    "inspect_the_posterior.py": ["figures/trace.png", "figures/rank.png", "figures/predictive.png"],
    "svi_in_plain_pyro.py": ["figure.png", "pair/model.safetensors"],
    "swap_the_guide.py": ["figure.png", "runs/swap-the-guide/second-look/report.json"],
    "swap_the_prior.py": ["figure.png"],
    "temporal_prior.py": ["figure.png"],
    "train_a_vae.py": ["run/checkpoints/best.ckpt", "run/report.json", "run/training.png"],
    "train_av_vae.py": ["run/checkpoints/best.ckpt", "run/report.json", "run/training.png"],
}
PRINTS = {
    "compare_models.py": [
        r"log evidence, nats per frame(.*\n)+?a-vae .*\d",
        r"PSIS-LOO, nats(.*\n)+?av-vae-synthetic, lips hidden .*\d",
    ],
    "evaluate_your_own_model.py": [r"\| a-vae \| auto .* 1 \| 0 \|", r"\| heavy tails \| auto .* 1 \| 0 \|"],
    "svi_in_plain_pyro.py": [r"epoch 1: ELBO .*held-out"],
    "swap_the_guide.py": ["one glance", "second look"],
    "temporal_prior.py": [r"single frames: .* dB wide", r"prior over time: .* dB wide"],
    "swap_the_prior.py": [r"mcem .*\(1\).*\(1\).*\(2\)", r"vem .*\(1\).*\(1\).*\(2\)"],
}
VIDEOS = {
    "bad_video.py": ["clip.mkv", "--figure", "figure.png"],
    "enhance_a_video.py": ["clip.mkv", *ARGUMENTS["enhance_a_video.py"]],
    "lips_help_at_low_snr.py": ["--clips", "clip.mkv", "--levels", "0", "--noise", "clip.mkv"],
    "min_vae.py": ["clip.mkv", "--levels", "0", "--figure", "figure.png"],
    "speech_from_lips.py": ["clip.mkv", "--out", "."],
}


LONG = frozenset(
    {"compare_samplers.py", "inspect_the_posterior.py", "lips_help_at_low_snr.py", "swap_the_prior.py"}
)
"""Examples of more than four seconds, even with the arguments of the tests. Of lips, the video is quicker."""


def run_example(name: str, arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("AVSE_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in sorted(ARGUMENTS)],
)
def test_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(name, ARGUMENTS[name], tmp_path, monkeypatch)
    for written in WRITES[name]:
        assert (tmp_path / written).stat().st_size > 0
    printed = capsys.readouterr().out
    for line in PRINTS.get(name, []):
        assert re.search(line, printed), line


def write_clip(path: Path, seconds: float = 1.0, rate: int = 16000) -> None:
    """A face, that of Grace Hopper which comes with matplotlib, before a noisy camera and microphone."""
    generator = np.random.default_rng(0)
    face = imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))[90:390, 110:430].mean(-1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *face.shape, "yuv420p"
        track = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for _ in range(round(25 * seconds)):
            picture = (face + generator.normal(0, 3, face.shape)).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode())
        samples = generator.integers(-3000, 3000, (1, round(rate * seconds)), dtype=np.int16)
        sound = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        sound.sample_rate, sound.pts = rate, 0
        container.mux(track.encode(sound))
        container.mux(track.encode())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    write_clip(path)
    return path


@pytest.mark.parametrize("name", sorted(VIDEOS))
def test_example_runs_on_a_video(
    name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(clip, tmp_path)
    run_example(name, VIDEOS[name], tmp_path, monkeypatch)
    assert "drawn" not in capsys.readouterr().out
    assert any(written.stat().st_size > 0 for written in tmp_path.glob("*.png"))


def test_every_example_is_listed_and_short() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == set(ARGUMENTS) | set(VIDEOS)
    for name in names:
        source = (EXAMPLES / name).read_text()
        assert len(source.splitlines()) < 100, name
        assert "avse.cli" not in source, name


@pytest.mark.parametrize("name", ["bad_video.py", "min_vae.py"])
def test_an_example_without_recordings_says_what_it_needs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"give .*, or set AVSE_DATA"):
        run_example(name, [], tmp_path, monkeypatch)


def test_default_clips_are_of_validation_speakers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither speakers that models were trained on nor those that are kept for tests."""
    lines = ["path,kind,speaker_or_type,split"]
    for speaker, split in {"s1": "validation", "s4": "train", "s30": "test"}.items():
        lines.append(f"grid/{speaker}/a.mkv,av,{speaker},{split}")
    lines += [
        f"grid/{speaker}/{k}.mkv,av,{speaker},validation" for speaker in ("s32", "s3") for k in range(8)
    ]
    (tmp_path / "splits.csv").write_text("\n".join(lines))
    monkeypatch.setenv("AVSE_DATA", str(tmp_path))
    clip = runpy.run_path(str(EXAMPLES / "bad_video.py"))["default_clip"]()
    assert clip == tmp_path / "grid/s3/0.mkv"
    expected = [tmp_path / f"grid/{speaker}/{k}.mkv" for speaker in ("s3", "s32") for k in (0, 2, 4, 6)]
    assert runpy.run_path(str(EXAMPLES / "lips_help_at_low_snr.py"))["default_clips"](tmp_path) == expected
    assert runpy.run_path(str(EXAMPLES / "min_vae.py"))["default_clips"]() == expected
