import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf

from avse.data.audio import (
    check_writable,
    clipped_fraction,
    match_length,
    read_audio,
    resample,
    write_audio,
)
from avse.data.errors import InputError
from avse.data.files import atomic_path, check_destination

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def noise(length: int, channels: int = 1, peak: float = 0.9, seed: int = 0) -> npt.NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    return generator.uniform(-peak, peak, (length, channels)).astype(np.float32)


def tone(length: int, rate: int, frequency: float = 440.0) -> npt.NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(length) / rate)).astype(np.float32)


def chirp(length: int, rate: int) -> npt.NDArray[np.float32]:
    time = np.arange(length) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * time + 1200 * time**2))).astype(np.float32)


def write_video(path: Path, sound: npt.NDArray[np.float32] | None, rate: int, codec: str) -> None:
    """One second of grey pictures, with a mono sound track unless `sound` is None."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        track = None if sound is None else container.add_stream(codec, rate=rate, layout="mono")
        for _ in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if track is not None and sound is not None:
            for begin in range(0, len(sound), 1024):
                block = (sound[begin : begin + 1024] * 32767).astype(np.int16)[None]
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                frame.sample_rate = rate
                frame.pts = begin
                container.mux(track.encode(frame))
            container.mux(track.encode(None))


@pytest.fixture
def small_files() -> Iterator[None]:
    """Writing beyond 50 kB fails in this process, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("name", "subtype", "error"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 2**-24),
        ("a.wav", "FLOAT", 0.0),
        ("a.wav", "DOUBLE", 0.0),
        ("a.WAV", "ULAW", 0.04),
        ("a.flac", "PCM_16", 2**-15),
        ("a.flac", "PCM_24", 2**-23),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_round_trip_within_one_step(
    tmp_path: Path, name: str, subtype: str, error: float, channels: int
) -> None:
    samples = noise(1000, channels)
    write_audio(tmp_path / name, samples, 44100, subtype)
    audio = read_audio(tmp_path / name)
    assert audio.samples.dtype == np.float32
    assert audio.samples.shape == (1000, channels)
    assert (audio.sample_rate, audio.subtype, audio.start) == (44100, subtype, 0.0)
    assert np.abs(audio.samples - samples).max() <= error


def test_integers_survive_bit_for_bit(tmp_path: Path) -> None:
    integers = np.arange(-32768, 32768, dtype=np.int16)
    sf.write(tmp_path / "a.wav", integers, 16000)
    audio = read_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav", audio.samples, audio.sample_rate, audio.subtype)
    np.testing.assert_array_equal(sf.read(tmp_path / "b.wav", dtype="int16")[0], integers)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_rates_and_lengths_survive(tmp_path: Path, rate: int, suffix: str) -> None:
    samples = tone(rate, rate)
    write_audio(tmp_path / f"a.{suffix}", samples, rate)
    audio = read_audio(tmp_path / f"a.{suffix}")
    assert audio.sample_rate == rate
    assert audio.samples.shape == (rate, 1)
    assert np.abs(audio.samples[:, 0] - samples).max() < 0.05


def test_long_vorbis_is_written_in_blocks(tmp_path: Path) -> None:
    samples = tone(3_000_000, 16000)
    write_audio(tmp_path / "a.ogg", samples, 16000)
    assert read_audio(tmp_path / "a.ogg").samples.shape == (3_000_000, 1)


def test_mp3_is_read_and_written_on_as_wav(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.mp3", tone(16000, 16000), 16000, format="MP3")
    audio = read_audio(tmp_path / "a.mp3")
    write_audio(tmp_path / "b.wav", audio.samples, audio.sample_rate, audio.subtype)
    assert sf.info(tmp_path / "b.wav").subtype == "PCM_16"


def test_silent_and_clipped_recordings_are_read(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(100), 16000)
    assert not read_audio(tmp_path / "a.wav").samples.any()
    write_audio(tmp_path / "b.wav", np.array([1.0, -1.0, 0.5, 0.0]), 16000)
    assert clipped_fraction(read_audio(tmp_path / "b.wav").samples) == 0.5


def test_peaks_beyond_full_scale_are_kept_in_wav(tmp_path: Path) -> None:
    samples = noise(1000, peak=3.0)
    write_audio(tmp_path / "a.wav", samples, 16000, "PCM_24")
    audio = read_audio(tmp_path / "a.wav")
    assert audio.subtype == "FLOAT"
    np.testing.assert_array_equal(audio.samples, samples)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg"])
def test_peaks_beyond_full_scale_warn_elsewhere(tmp_path: Path, name: str) -> None:
    samples = 2 * tone(16000, 16000) + 0.5
    with pytest.warns(UserWarning, match=rf"{name}: peak 1\.5 clipped"):
        write_audio(tmp_path / name, samples, 16000)
    read = read_audio(tmp_path / name).samples[:, 0]
    assert np.abs(read - np.clip(samples, -1, 1)).max() < 0.1


@pytest.mark.parametrize(
    ("name", "codec", "rate", "delay"),
    [
        ("a.mkv", "flac", 16000, 0),
        ("a.mkv", "pcm_s16le", 8000, 0),
        ("a.mp4", "aac", 48000, 1),
        ("a.mov", "aac", 44100, 1),
        ("a.avi", "pcm_s16le", 16000, 0),
        ("a.avi", "mp2", 32000, 1000),  # the encoder's own delay, which the container does not tell
    ],
)
def test_the_sound_of_a_video(tmp_path: Path, name: str, codec: str, rate: int, delay: int) -> None:
    samples = chirp(rate, rate)
    write_video(tmp_path / name, samples, rate, codec)
    audio = read_audio(tmp_path / name)
    assert audio.sample_rate == rate
    assert audio.subtype is None
    read = match_length(audio.samples[:, 0], rate)
    correlation = np.correlate(read, samples[2000:-2000], "valid")
    lag = int(np.argmax(correlation)) - 2000
    assert abs(lag) <= delay
    assert correlation.max() > 0.95 * np.sum(samples[2000:-2000] ** 2)


def test_a_damaged_block_becomes_silence_of_its_length(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    samples = noise(16000)[:, 0]
    write_video(path, samples, 16000, "flac")
    clean = read_audio(path).samples
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    content = path.read_bytes()
    damaged = packets[len(packets) // 2]
    assert content.count(damaged) == 1
    path.write_bytes(content.replace(damaged, bytes(len(damaged))))
    with pytest.warns(UserWarning, match=r"a\.mkv: 0\.\d+ s of damaged sound replaced by silence"):
        read = read_audio(path).samples
    assert read.shape == clean.shape
    different = np.flatnonzero(read != clean)
    assert 0 < np.ptp(different) < 5000
    assert not read[different].any()
    np.testing.assert_array_equal(read[-2000:], clean[-2000:])


def test_a_cut_off_video_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_video(path, noise(16000)[:, 0], 16000, "flac")
    clean = read_audio(path).samples
    content = path.read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])
    read = read_audio(path).samples
    assert 1000 < len(read) < len(clean)
    np.testing.assert_array_equal(read[:1000], clean[:1000])


def make_missing(path: Path) -> None:
    pass


def make_text(path: Path) -> None:
    path.write_text("this is no sound\n" * 100)


def make_empty(path: Path) -> None:
    path.touch()


def make_no_samples(path: Path) -> None:
    sf.write(path, np.zeros((0, 2)), 16000)


def make_nan(path: Path) -> None:
    sf.write(path, np.array([0.0, np.nan]), 16000, "FLOAT")


def make_infinite(path: Path) -> None:
    sf.write(path, np.array([0.0, np.inf]), 16000, "FLOAT")


@pytest.mark.parametrize(
    ("make", "mend"),
    [
        (make_missing, "does not exist; check the name"),
        (Path.mkdir, "is a folder; give a sound file"),
        (make_text, "give a"),
        (make_empty, r"is empty \(0 bytes\)"),
        (make_no_samples, "holds no samples"),
        (make_nan, "NaN or infinite"),
        (make_infinite, "NaN or infinite"),
    ],
)
def test_unreadable_files_are_named_with_the_mend(tmp_path: Path, make: object, mend: str) -> None:
    path = tmp_path / "name.wav"
    make(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=rf"name\.wav: .*{mend}") as caught:
        read_audio(path)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


def test_a_video_without_sound(tmp_path: Path) -> None:
    write_video(tmp_path / "mute.mp4", None, 16000, "aac")
    with pytest.raises(InputError, match=r"mute\.mp4: has no sound track; give"):
        read_audio(tmp_path / "mute.mp4")


@pytest.mark.skipif(ROOT, reason="permissions do not bind root")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, np.zeros(10), 16000)
    path.chmod(0)
    with pytest.raises(InputError, match="check its name and permissions"):
        read_audio(path)
    path.chmod(0o444)
    with pytest.raises(InputError, match="write-protected"):
        check_writable(path)
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="cannot be written there"):
        check_writable(tmp_path / "b.wav")
    tmp_path.chmod(0o755)


def test_destinations_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    for name, mend in [
        ("nowhere/a.wav", "does not exist; create it first"),
        ("file/a.wav", "does not exist; create it first"),
        ("folder.wav", "is a folder; give the name of a file"),
        ("a.mp3", "unknown sound format"),
        ("a", "unknown sound format"),
        ("a" * 300 + ".wav", "cannot be written there"),
    ]:
        with pytest.raises(InputError, match=mend):
            check_writable(tmp_path / name)
        with pytest.raises(InputError, match=mend):
            write_audio(tmp_path / name, np.zeros(10), 16000)
    with pytest.raises(InputError, match="not a regular file"):
        check_destination("/dev/null")
    check_writable(tmp_path / "a.wav")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.wav"]


@pytest.mark.parametrize(
    ("samples", "mend"),
    [
        (np.zeros(0), "shape"),
        (np.zeros((0, 2)), "shape"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.array([0.0, np.nan]), "NaN or infinite"),
        (np.array([0.0, 1e300]), "NaN or infinite"),
        (np.zeros(10, np.int16), "int16 samples"),
    ],
)
def test_samples_that_cannot_be_written(tmp_path: Path, samples: npt.ArrayLike, mend: str) -> None:
    with pytest.raises(InputError, match=mend):
        write_audio(tmp_path / "a.wav", samples, 16000)
    assert not list(tmp_path.iterdir())


def test_formats_say_what_they_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"FLAC PCM_16 with 9 channels at 16000 Hz .*write a \.wav"):
        write_audio(tmp_path / "a.flac", np.zeros((10, 9)), 16000)
    with pytest.raises(InputError, match="0 Hz"):
        write_audio(tmp_path / "a.wav", np.zeros(10), 0)
    with pytest.raises(InputError, match="unknown sample format 'PCM_17'; WAV takes PCM_16"):
        write_audio(tmp_path / "a.wav", np.zeros(10), 16000, "PCM_17")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    write_audio(tmp_path / name, tone(1000, 16000), 16000)
    old = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match="free space"):
        write_audio(tmp_path / name, noise(400_000), 16000)
    assert (tmp_path / name).read_bytes() == old
    assert os.listdir(tmp_path) == [name]


def test_atomic_path_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail(error: BaseException) -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == path.parent
            assert temporary.suffix == ".json"
            raise error

    for error in (RuntimeError("bug"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fail(error)
    with pytest.raises(InputError, match=r"report\.json: could not be written \(No space left\)"):
        fail(OSError(28, "No space left"))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_atomic_path_keeps_links_and_permissions(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("old")
    real.chmod(0o640)
    (tmp_path / "link.json").symlink_to(real)
    with atomic_path(tmp_path / "link.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.json").is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_file_can_be_read_and_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    write_audio(path, noise(1000), 16000)
    audio = read_audio(path)
    write_audio(path, audio.samples, audio.sample_rate, audio.subtype)
    np.testing.assert_array_equal(read_audio(path).samples, audio.samples)


@pytest.mark.parametrize(
    ("rate_in", "rate_out"), [(8000, 16000), (44100, 16000), (16000, 44100), (96000, 16000)]
)
def test_resampled_tone_is_the_tone_at_the_new_rate(rate_in: int, rate_out: int) -> None:
    read = resample(tone(rate_in, rate_in), rate_in, rate_out)
    assert read.dtype == np.float32
    edge = rate_out // 10
    expected = tone(rate_out, rate_out)
    assert np.abs(read - expected)[edge:-edge].max() < 1e-4


@pytest.mark.parametrize("length", [1, 2, 99, 1000, 44101])
@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 44100), (48000, 16000), (16000, 16000)])
@pytest.mark.parametrize("channels", [None, 1, 8])
def test_resampled_length_is_the_ceiling(length: int, rates: tuple[int, int], channels: int | None) -> None:
    shape = (length,) if channels is None else (length, channels)
    rate_in, rate_out = rates
    there = resample(np.ones(shape), rate_in, rate_out)
    assert there.shape == (-(-length * rate_out // rate_in), *shape[1:])
    back = resample(there, rate_out, rate_in)
    assert len(back) >= length
    assert match_length(back, length).shape == shape


@pytest.mark.slow
def test_resampling_is_that_of_librosa() -> None:
    import librosa

    x = noise(4801, channels=2)
    expected = librosa.resample(x.T, orig_sr=48000, target_sr=16000, res_type="soxr_vhq").T
    np.testing.assert_allclose(resample(x, 48000, 16000), expected, atol=1e-6)


def test_resampling_treats_channels_alike() -> None:
    samples = noise(1000, 8)
    together = resample(samples, 48000, 16000)
    for channel in range(8):
        np.testing.assert_allclose(
            together[:, channel], resample(samples[:, channel], 48000, 16000), atol=1e-6
        )


def test_resampling_refuses_nonsense() -> None:
    with pytest.raises(InputError, match="must be positive"):
        resample(np.ones(10), 0, 16000)
    with pytest.raises(InputError, match="shape"):
        resample(np.ones((2, 2, 2)), 8000, 16000)


def test_match_length_cuts_and_pads_at_the_end() -> None:
    samples = np.arange(1.0, 5.0)
    np.testing.assert_array_equal(match_length(samples, 2), [1, 2])
    np.testing.assert_array_equal(match_length(samples, 6), [1, 2, 3, 4, 0, 0])
    assert match_length(np.ones((3, 2)), 5).shape == (5, 2)
