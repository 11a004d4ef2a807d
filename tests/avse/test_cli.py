"""The command line: what it writes, and how it answers mistakes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import avse
from avse.cli import app as cli
from avse.data.audio import Audio

RATE = 16000


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    path = tmp_path / "noisy.wav"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal((RATE // 2, 2)), RATE, subtype="PCM_24")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["avse", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def test_enhance_writes_sound_report_and_figure(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report, figure = (tmp_path / name for name in ("out.flac", "report.json", "figure.png"))
    assert run(monkeypatch, "enhance", noisy, "--out", out, "--json", report, "--figure", figure) == 0
    assert capsys.readouterr().out.strip() == str(out)
    info = sf.info(out)
    assert (info.samplerate, info.channels, info.frames) == (RATE, 2, RATE // 2)
    assert info.subtype == "PCM_24"
    values = json.loads(report.read_text())
    assert values["model"] == "a-vae"
    assert values["requested"]["model"] == "auto"
    assert values["seed"] == 0
    assert values["segments"][0]["cost"]
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_default_output_stands_beside_the_input(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "enhance", noisy) == 0
    assert noisy.with_name("noisy_enhanced.wav").is_file()


def test_sound_of_a_video_is_enhanced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    video = tmp_path / "clip.mkv"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE)
        stream.layout = "mono"
        samples = (np.random.default_rng(0).standard_normal((1, RATE // 2)) * 3000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert run(monkeypatch, "enhance", video, "--out", tmp_path / "out.wav") == 0
    assert sf.info(tmp_path / "out.wav").frames == RATE // 2


def missing(folder: Path, good: Path) -> list[object]:
    return [folder / "absent.wav"]


def directory(folder: Path, good: Path) -> list[object]:
    return [folder]


def text(folder: Path, good: Path) -> list[object]:
    (folder / "text.wav").write_text("this is no sound")
    return [folder / "text.wav"]


def empty(folder: Path, good: Path) -> list[object]:
    (folder / "empty.wav").touch()
    return [folder / "empty.wav"]


def not_finite(folder: Path, good: Path) -> list[object]:
    sf.write(folder / "nan.wav", np.array([0.0, np.nan, 0.1]), RATE, subtype="FLOAT")
    return [folder / "nan.wav"]


def infinite(folder: Path, good: Path) -> list[object]:
    sf.write(folder / "inf.wav", np.array([0.0, np.inf, 0.1]), RATE, subtype="FLOAT")
    return [folder / "inf.wav"]


def no_samples(folder: Path, good: Path) -> list[object]:
    sf.write(folder / "none.wav", np.zeros(0), RATE)
    return [folder / "none.wav"]


def unknown_model(folder: Path, good: Path) -> list[object]:
    return [good, "--model", "b-vae"]


def unknown_algorithm(folder: Path, good: Path) -> list[object]:
    return [good, "--algorithm", "magic"]


def no_output_folder(folder: Path, good: Path) -> list[object]:
    return [good, "--out", folder / "absent" / "out.wav"]


def output_is_a_folder(folder: Path, good: Path) -> list[object]:
    return [good, "--out", folder]


def output_of_unknown_format(folder: Path, good: Path) -> list[object]:
    return [good, "--out", folder / "out.xyz"]


def report_is_a_folder(folder: Path, good: Path) -> list[object]:
    return [good, "--json", folder]


def figure_of_unknown_format(folder: Path, good: Path) -> list[object]:
    return [good, "--figure", folder / "figure.xyz"]


def output_below_a_file(folder: Path, good: Path) -> list[object]:
    return [good, "--out", good / "out.wav"]


MISTAKES = [
    missing,
    directory,
    text,
    empty,
    not_finite,
    infinite,
    no_samples,
    unknown_model,
    unknown_algorithm,
    no_output_folder,
    output_is_a_folder,
    output_of_unknown_format,
    report_is_a_folder,
    figure_of_unknown_format,
    output_below_a_file,
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_line_exit_code_2_and_no_lost_file(
    mistake, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = noisy.with_name("noisy_enhanced.wav")
    kept.write_bytes(b"an earlier result")
    arguments = mistake(tmp_path, noisy)
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, "enhance", *arguments) == cli.USER_ERROR
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("avse: ")
    assert str(arguments[-1]).split("/")[-1] in lines[0]
    assert kept.read_bytes() == b"an earlier result"
    assert sorted(tmp_path.rglob("*")) == before


def broken_weights(pair: Path, change) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(pair / "model.safetensors")
    save_file(change(weights), pair / "model.safetensors")


@pytest.mark.parametrize("kind", ["missing tensor", "wrong shape", "no weights", "damaged config"])
def test_damaged_models_are_named(
    kind: str, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = tmp_path / "pair"
    avse.load("a-vae").save_pretrained(pair)
    name = "model.decoder.output.bias"
    if kind == "missing tensor":
        broken_weights(pair, lambda weights: {k: v for k, v in weights.items() if k != name})
    elif kind == "wrong shape":
        broken_weights(pair, lambda weights: {**weights, name: weights[name][:-1].copy()})
    elif kind == "no weights":
        (pair / "model.safetensors").unlink()
    else:
        (pair / "config.json").write_text("{")
    assert run(monkeypatch, "enhance", noisy, "--model", pair) == cli.USER_ERROR
    line = capfd.readouterr().err.strip()
    assert "\n" not in line
    assert str(pair) in line
    if "tensor" in kind or "shape" in kind:
        assert name in line


def test_a_failed_write_keeps_the_old_file(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = noisy.with_name("out.wav")
    out.write_bytes(b"an earlier result")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avse.data.audio.sf.SoundFile", full)
    audio = Audio(np.ones((800, 1), dtype=np.float32), RATE)
    monkeypatch.setattr("avse.cli.commands.read_audio", lambda path, track=None: audio)
    assert run(monkeypatch, "enhance", noisy, "--out", out) == cli.USER_ERROR
    assert out.read_bytes() == b"an earlier result"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_protected_folder_is_refused(noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "protected"
    folder.mkdir(mode=0o500)
    assert run(monkeypatch, "enhance", noisy, "--out", folder / "out.wav") == cli.USER_ERROR


@pytest.mark.parametrize(
    ("video", "options", "words"),
    [
        ("absent.mp4", [], "absent.mp4"),
        ("noisy.wav", [], "has no video frames"),
        ("noisy.wav", ["--out", "lips.png"], ".npz"),
        ("noisy.wav", ["--figure", "sheet.xyz"], "sheet.xyz"),
    ],
)
def test_lips_refuse_what_shows_no_face(
    video: str,
    options: list[str],
    words: str,
    noisy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(noisy.parent)
    assert run(monkeypatch, "lips", video, *options) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert words in line
    assert [path.name for path in noisy.parent.iterdir()] == ["noisy.wav"]


def test_models_lists_what_is_shipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "models") == 0
    assert "a-vae" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["c-vae"], "c-vae"),
        (["a-vae", "--corpus", "nowhere"], "nowhere"),
        (["a-vae", "--corpus", "folder"], "--root"),
        (["a-vae", "--corpus", "folder", "--root", "absent"], "absent"),
        (["a-vae", "--resume"], "last.ckpt"),
    ],
)
def test_train_refuses_what_it_cannot_do(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "train", *arguments, "--out", tmp_path / "run") == cli.USER_ERROR
    assert words in capfd.readouterr().err.strip().splitlines()[-1]


def test_train_then_enhance(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of sound files becomes a model, and the model enhances."""
    speech = tmp_path / "speech"
    for split, seed in (("train", 0), ("validation", 1)):
        (speech / split).mkdir(parents=True)
        for index in range(2):
            samples = 0.1 * np.random.default_rng(seed + index).standard_normal(RATE)
            sf.write(speech / split / f"{index}.wav", samples, RATE)
    run_folder = tmp_path / "run"
    options = ["--corpus", "folder", "--root", speech, "--epochs", 1, "--cache", tmp_path / "cache"]
    assert run(monkeypatch, "train", "a-vae-paper", "--out", run_folder, *options) == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert summary["epochs"] == 1
    assert (run_folder / "training.png").is_file()
    out = tmp_path / "out.wav"
    assert run(monkeypatch, "enhance", noisy, "--model", run_folder / "pair", "--out", out) == 0
    assert out.is_file()


@pytest.mark.slow
def test_demo_shows_what_lips_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "demo", "--out", tmp_path / "demo") == 0
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    noisy, hidden, seen = (report["metrics"][name] for name in ("noisy", "lips hidden", "with lips"))
    assert seen["si_sdr"] > noisy["si_sdr"] + 3
    assert seen["si_sdr"] > hidden["si_sdr"] + 1
    assert seen["stoi"] > max(noisy["stoi"], hidden["stoi"])
    for name in ("clean", "noisy", "lips_hidden", "with_lips", "noise"):
        assert (tmp_path / "demo" / f"{name}.wav").is_file()
    for name in ("lips", "lips_hidden", "with_lips", "metrics"):
        assert (tmp_path / "demo" / f"{name}.png").is_file()
    assert "with lips" in capsys.readouterr().out


@pytest.mark.slow
def test_the_installed_command_starts() -> None:
    command = shutil.which(
        "avse", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    assert command is not None
    done = subprocess.run([command, "enhance", "absent.wav"], capture_output=True, text=True)
    assert done.returncode == cli.USER_ERROR
    assert done.stderr.strip() == "avse: absent.wav: does not exist; check the name"
