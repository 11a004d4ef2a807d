"""Sound that comes piece by piece: latency, pieces, seams, changes of the noise, and long files."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray

import avse
from avse.cli import app as cli
from avse.cli.live import FORMATS, encoded, enhance_pcm, pieces
from avse.data.audio import resample
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.errors import InputError
from avse.inference.em.amortised import AmortisedEM
from avse.inference.presets import default_amortised
from avse.stream import Schedule, Stream, live, long
from avse.zoo.pair import SpeechPair

RATE = 16000
QUICK = replace(default_amortised(), iterations=3, final_draws=2)
SHORT = Schedule(block=40, lookahead=10, past=30, iterations=2)


@pytest.fixture(scope="module")
def pair() -> SpeechPair:
    return avse.load("a-vae")


def noise(seconds: float, seed: int = 0, channels: int | None = None) -> NDArray[np.float32]:
    shape: tuple[int, ...] = (int(seconds * RATE),) if channels is None else (int(seconds * RATE), channels)
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def coloured(seconds: float, low: float, high: float, seed: int = 0) -> NDArray[np.float32]:
    """Noise of level 0.1 between two frequencies in Hz, over a weak white one."""
    white = noise(seconds, seed).astype(np.float64)
    frequency = np.fft.rfftfreq(len(white), 1 / RATE)
    band = np.fft.irfft(np.fft.rfft(white) * ((frequency > low) & (frequency < high)), len(white))
    return (0.1 * band / band.std() + 0.003 * white).astype(np.float32)


def level(x: NDArray[np.floating]) -> float:
    """Power in dB."""
    return float(10 * np.log10(np.square(x, dtype=np.float64).mean() + 1e-20))


def streamed(x: NDArray[np.floating], parts: int, **options: Any) -> NDArray[np.float32]:
    channels = 1 if x.ndim == 1 else x.shape[1]
    return np.concatenate(list(Stream(RATE, channels, **options).enhanced(np.array_split(x, parts))))


@pytest.mark.parametrize("channels", [None, 1, 2, 3])
def test_what_fits_one_window_is_enhanced_as_a_whole(channels: int | None, pair: SpeechPair) -> None:
    """Level, low frequencies, linked channels, draws and overlap-add are all those of `avse.enhance`."""
    x = noise(0.7, channels=channels)
    if channels and channels > 1:
        x[:, 1] *= 0.3
    whole = avse.enhance(x, RATE, model=pair, algorithm=QUICK, seed=2).speech
    found = streamed(x, 5, model=pair, algorithm=QUICK, seed=2, schedule=long(pair.stft))
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_results_do_not_depend_on_the_pieces(pair: SpeechPair) -> None:
    x = noise(1.5)
    options: dict[str, Any] = {"model": pair, "algorithm": QUICK, "schedule": SHORT}
    whole = streamed(x, 1, **options)
    assert whole.shape == x.shape
    for parts in (2, 37):
        np.testing.assert_allclose(streamed(x, parts, **options), whole, atol=1e-6)


@pytest.mark.parametrize("length", [0, 1, 100, 700, 12_000])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_as_many_samples_come_back_as_were_given(length: int, rate: int, pair: SpeechPair) -> None:
    stream = Stream(rate, model=pair, algorithm=QUICK)
    x = noise(1.0)[:length]
    found = [*stream.enhanced([x[: length // 3], x[length // 3 :]]), np.zeros(0, np.float32)]
    speech = np.concatenate(found)
    assert speech.shape == x.shape
    assert np.isfinite(speech).all()


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_the_stated_latency_holds_and_is_below_half_a_second(rate: int, pair: SpeechPair) -> None:
    stream = Stream(rate, model=pair, algorithm=replace(QUICK, iterations=1, draws=1, final_draws=1))
    assert 0.3 < stream.latency <= 0.5
    piece = noise(1.0)[: rate // 100]
    given, back, latest = 0, 0, 0
    for _ in range(120):
        back += len(stream.push(piece))
        given += len(piece)
        latest = max(latest, given - back)
    assert latest <= stream.latency * rate
    assert latest > 0.9 * stream.latency * rate  # it is not overstated either


class Watched(AmortisedEM):
    """Amortised EM that keeps the noise variance of every window, (N, F)."""

    seen: list[torch.Tensor] = []  # noqa: RUF012

    def __call__(self, *arguments: Any) -> Any:
        posterior = super().__call__(*arguments)
        self.seen.append(posterior.noise.variance()[0])
        return posterior


def test_the_noise_level_of_stationary_noise_does_not_jump(pair: SpeechPair) -> None:
    """Under 0.5 dB from 0.3 s before a seam to 0.3 s after it, and between both windows in shared frames."""
    schedule = Schedule(block=60, lookahead=20, past=60, iterations=4)
    default = default_amortised()
    watched = Watched(**{each.name: getattr(default, each.name) for each in fields(default)})
    Watched.seen.clear()
    streamed(coloured(6.0, 300.0, 4000.0), 1, model=pair, algorithm=watched, schedule=schedule)
    assert len(Watched.seen) > 5
    past = 0
    for before, after in zip(Watched.seen[:-2], Watched.seen[1:-1], strict=True):
        end = past + schedule.block
        past = min(end, schedule.past)
        left, right, same = before[end - 19 : end], after[past : past + 19], after[past - 19 : past]
        levels = [10 * torch.log10(part.mean()) for part in (left, right, same)]
        assert abs(levels[1] - levels[0]) < 0.5
        assert abs(levels[2] - levels[0]) < 0.5


def filter_steps(x: NDArray[np.float32], pair: SpeechPair) -> NDArray[np.float64]:
    """Mean over bins of the change of the amplitude gain from one frame to the next, (N - 1,)."""
    stream = Stream(RATE, model=pair, schedule=SHORT)
    filtered: list[torch.Tensor] = []
    add = stream._windows._add
    stream._windows._add = lambda spectrum: (filtered.append(spectrum), add(spectrum))[1]  # type: ignore[method-assign]
    list(stream.enhanced([x]))
    spectrum, scale = pair.config.front_end.analysis(torch.from_numpy(x)[None])
    gain = (torch.cat(filtered, -2).abs() / (spectrum / scale[..., None]).abs())[0]
    return gain.diff(dim=0).abs().mean(-1).double().numpy()


def test_the_filter_has_no_seams(pair: SpeechPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speech in noise: from block to block it changes as from frame to frame, but not without the fading."""
    face = talking_face(seed=0)
    clean = resample(np.asarray(face.clean, np.float32), face.sample_rate, RATE)
    x = np.tile(clean, 3) + coloured(3 * len(clean) / RATE, 300.0, 4000.0)[: 3 * len(clean)] * clean.std() * 5

    def excess() -> float:
        steps = filter_steps(x.astype(np.float32), pair)
        seams = np.arange(SHORT.block - 1, len(steps) - SHORT.block, SHORT.block)
        near = np.concatenate([steps[seams + offset] for offset in (-2, -1, 1, 2)])
        return float(np.median(steps[seams]) / np.median(near))

    assert excess() < 1.3
    monkeypatch.setattr("avse.stream.faded_in", lambda before, gain: gain)
    assert excess() > 1.3


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [live, long])
def test_a_change_of_the_noise_is_followed_within_two_seconds(schedule: Any, pair: SpeechPair) -> None:
    """From a low to a high band: two seconds later as much is taken away as of the new noise alone."""
    first, second = coloured(6.0, 100.0, 1500.0), coloured(8.0, 3000.0, 6000.0, 1)
    found = streamed(np.concatenate([first, second]), 1, model=pair, schedule=schedule(pair.stft))
    begin, tested = len(first) + 2 * RATE, slice(2 * RATE, 6 * RATE)
    alone = avse.enhance(second, RATE, model=pair).speech
    left = level(found[begin : begin + 4 * RATE]) - level(second[tested])
    left_alone = level(alone[tested]) - level(second[tested])
    assert left_alone < -10
    assert left < left_alone + 3


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sample_rate": 500}, "sample rate"),
        ({"channels": 0}, "channels"),
        ({"model": "av-vae"}, "needs lips"),
        ({"model": "none-such"}, "none-such"),
        ({"algorithm": "vem"}, "amortised"),
        ({"algorithm": "none-such"}, "none-such"),
        ({"seed": -1}, "seed"),
        ({"device": "gpu"}, "gpu"),
    ],
)
def test_streams_that_cannot_be_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Stream(**{"sample_rate": RATE, **options})


@pytest.mark.parametrize(
    ("x", "word"),
    [
        (np.zeros((3, 2), np.float32), "shape"),
        (np.zeros(3, np.int16), "int16"),
        (np.array([np.nan], np.float32), "finite"),
        (np.array([1e5], np.float32), "beyond"),
    ],
)
def test_samples_that_cannot_be_are_refused(x: NDArray[Any], word: str, pair: SpeechPair) -> None:
    with pytest.raises(InputError, match=word):
        Stream(RATE, model=pair).push(x)


def test_silence_stays_silent_and_sound_after_it_is_heard(pair: SpeechPair) -> None:
    x = np.concatenate([np.zeros(RATE, np.float32), noise(0.5)])
    found = streamed(x, 3, model=pair, algorithm=QUICK, schedule=SHORT)
    assert np.abs(found[: RATE // 2]).max() == 0
    assert np.isfinite(found).all()
    assert np.abs(found[RATE:]).max() > 0


def split_bytes(content: bytes, sizes: Sequence[int]) -> io.BufferedReader:
    """A pipe that gives so many bytes at each reading, then all others."""

    class Pipe(io.RawIOBase):
        left = list(sizes)  # noqa: RUF012
        rest = content

        def readinto(self, buffer: Any) -> int:
            size = min(self.left.pop(0) if self.left else len(buffer), len(buffer))
            given, Pipe.rest = self.rest[:size], self.rest[size:]
            buffer[: len(given)] = given
            return len(given)

        def readable(self) -> bool:
            return True

    return io.BufferedReader(Pipe())


@pytest.mark.parametrize(("name", "channels"), [("s16le", 1), ("s16le", 2), ("f32le", 2)])
def test_samples_of_a_pipe_are_whole_however_they_are_read(name: str, channels: int) -> None:
    x = noise(0.01, channels=channels)
    content = encoded(x, FORMATS[name])
    parts = list(pieces(split_bytes(content + b"\0", [1, 2, 3, 5, 7]), channels, FORMATS[name]))
    np.testing.assert_allclose(np.concatenate(parts), x, atol=0 if name == "f32le" else 2**-16)


def test_integers_are_clipped_and_not_wrapped() -> None:
    found = np.frombuffer(encoded(np.array([2.0, -2.0, 0.5], np.float32), FORMATS["s16le"]), "<i2")
    assert found.tolist() == [32767, -32768, 16384]


def test_pcm_in_gives_pcm_out(pair: SpeechPair) -> None:
    x = noise(0.6)
    target, notes = io.BytesIO(), []
    enhance_pcm(
        io.BytesIO(encoded(x, FORMATS["f32le"])),
        target,
        notes.append,
        rate=RATE,
        channels=1,
        sample_format="f32le",
    )
    found = np.frombuffer(target.getvalue(), "<f4")
    np.testing.assert_allclose(found, streamed(x, 1, model=pair), atol=1e-6)
    assert "0.40 s" in notes[0]
    with pytest.raises(InputError, match="s16le"):
        enhance_pcm(io.BytesIO(), target, notes.append, rate=RATE, channels=1, sample_format="mp3")


@pytest.mark.slow
def test_the_command_streams_and_ends_silently_with_its_reader() -> None:
    command = [sys.executable, "-c", "from avse.cli.app import main; main()", "enhance", "--stream"]
    content = encoded(noise(2.0), FORMATS["s16le"])
    done = subprocess.run(command, input=content, capture_output=True, timeout=300)
    assert done.returncode == 0
    assert len(done.stdout) == len(content)
    assert done.stderr.decode().startswith("note: each sample comes back at most 0.40 s later")
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.write(20 * content)
            process.stdin.close()
        error = process.stderr.read().decode()
        assert process.wait(300) == 0
    assert len(error.splitlines()) == 1


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["avse", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--stream", "n.wav"], "NOISY"),
        (["--stream", "--out", "o.wav"], "--out"),
        (["--stream", "--sample-format", "mp3"], "mp3"),
        (["--stream", "--model", "av-vae"], "lips"),
        ([], "nothing to enhance"),
    ],
)
def test_the_command_refuses_in_one_line(
    arguments: list[str], word: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert run(monkeypatch, "enhance", *arguments) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert word in line


@pytest.fixture
def blockwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files from 1 s on are enhanced in blocks of 0.64 s."""
    monkeypatch.setattr("avse.cli.commands.WHOLE", 1.0)
    monkeypatch.setattr("avse.many.SEGMENT", 1.0)
    monkeypatch.setattr("avse.long.long", lambda stft: SHORT)


@pytest.mark.usefixtures("blockwise")
def test_a_long_file_is_what_its_blocks_give_by_hand(
    tmp_path: Path, pair: SpeechPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = noise(2.3, channels=2)
    source, out, report = tmp_path / "n.flac", tmp_path / "o.flac", tmp_path / "o.json"
    sf.write(source, x, RATE, subtype="PCM_24")
    read, _ = sf.read(source, dtype="float32")
    assert run(monkeypatch, "enhance", source, "--out", out, "--json", report, "--seed", 3) == 0
    expected = streamed(read, 7, model=pair, seed=3, schedule=SHORT)
    np.testing.assert_allclose(sf.read(out, dtype="float32")[0], expected, atol=2**-22)
    assert sf.info(out).subtype == "PCM_24"
    told = json.loads(report.read_text())
    assert told["blocks"]["block"] == 40
    assert told["input"]["seconds"] == pytest.approx(2.3)
    assert told["input"]["channels_linked"]
    (outcome,) = avse.enhance_many(source, out=tmp_path / "many", seed=3)
    np.testing.assert_array_equal(sf.read(outcome.output)[0], sf.read(out)[0])


@pytest.mark.usefixtures("blockwise")
@pytest.mark.parametrize("options", [["--algorithm", "mcem"], ["--figure", "f.png"]])
def test_what_needs_the_whole_file_gets_it(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sf.write("n.wav", noise(1.1), RATE)
    assert run(monkeypatch, "enhance", "n.wav", "--json", "r.json", *options) == 0
    assert "blocks" not in json.loads(Path("r.json").read_text())


def test_nothing_follows_the_end() -> None:
    stream = avse.Stream(RATE)
    stream.push(np.zeros(400))
    assert len(stream.finish()) == 400
    for more in (stream.finish, lambda: stream.push(np.zeros(400))):
        with pytest.raises(InputError, match="has ended"):
            more()
