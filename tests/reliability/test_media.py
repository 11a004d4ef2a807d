"""Media as users have them: joined, cut, in several tracks, under odd names, on disks that fill."""

import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import soundfile as sf
import torch

from avse.data import audio as audio_module
from avse.data.audio import read_audio, resample, write_audio
from avse.data.corpora.folder import FolderCorpus
from avse.data.datamodule import FrameDataModule
from avse.data.errors import InputError
from avse.data.files import atomic_path
from avse.data.front_end import FrontEnd
from avse.data.lips.files import load_lips_array
from avse.data.stft import STFT
from avse.evaluation.metrics import estoi

TINY = FrontEnd(STFT(64, 32))


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, length).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.ogg", "VORBIS", 0.0),
        ("a.ogg", "OPUS", 0.0),
        ("a.mp3", None, 0.0),
        ("a.flac", None, 0.0),
        ("a.wav", None, 0.0),
    ],
)
def test_joined_recordings_are_read_to_the_end(
    tmp_path: Path, name: str, subtype: str | None, tolerance: float
) -> None:
    parts = []
    for seed in (0, 1):
        sf.write(tmp_path / name, noise(16000, seed), 16000, subtype=subtype)
        parts.append((read_audio(tmp_path / name).samples, (tmp_path / name).read_bytes()))
    (tmp_path / name).write_bytes(parts[0][1] + parts[1][1])
    np.testing.assert_array_equal(
        read_audio(tmp_path / name).samples, np.concatenate([parts[0][0], parts[1][0]])
    )


def test_a_joined_recording_of_another_rate_is_told(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.ogg", noise(8000), 16000)
    sf.write(tmp_path / "b.ogg", noise(8000), 8000)
    (tmp_path / "c.ogg").write_bytes((tmp_path / "a.ogg").read_bytes() + (tmp_path / "b.ogg").read_bytes())
    with pytest.warns(UserWarning, match=r"1 of the 2 recordings .* are left out"):
        assert len(read_audio(tmp_path / "c.ogg").samples) == 8000


@pytest.mark.parametrize(
    ("name", "seconds"), [("a.wav", 0.5), ("a.aiff", 0.5), ("a.flac", None), ("a.mp3", None)]
)
def test_a_recording_cut_in_half_is_told(tmp_path: Path, name: str, seconds: float | None) -> None:
    path = tmp_path / name
    sf.write(path, noise(32000), 32000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(
        UserWarning, match=r"the last 0\.\d+ s that its header announces are missing"
    ) as caught:
        read = read_audio(path)
    if seconds is not None:
        assert len(read.samples) == pytest.approx(seconds * 32000, abs=100)
        told = float(str(caught[0].message).split("the last ")[1].split(" s ")[0])
        assert told == pytest.approx(1 - len(read.samples) / 32000, abs=0.01)


def test_an_ogg_without_its_end_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    sf.write(path, noise(160000), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="its end is missing"):
        assert 0 < len(read_audio(path).samples) < 160000


def test_a_wav_of_unknown_length_is_no_cut_one(tmp_path: Path) -> None:
    """As programs write it that stream into a pipe; the warnings filter makes any note an error."""
    path = tmp_path / "a.wav"
    sf.write(path, noise(1000), 16000)
    content = bytearray(path.read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(path).samples) == 1000


def test_pipes_are_called_pipes_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for read in (read_audio, load_lips_array):
        with pytest.raises(InputError, match="is not a regular file but a pipe"):
            read(tmp_path / ("pipe.wav"))


def write_tracks(path: Path) -> None:
    """Tracks of level 0.25 and 0.5."""
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        for track, level in zip(tracks, (0.25, 0.5), strict=True):
            block = np.full((1, 1600), round(level * 32768), np.int16)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(track.encode(frame))
            container.mux(track.encode())


def test_sound_tracks_are_named_and_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_tracks(path)
    with pytest.warns(UserWarning, match=r"sound tracks 0 \(pcm_s16le\), 1 \(pcm_s16le\); track 0 is read"):
        assert read_audio(path).samples[0] == 0.25
    assert read_audio(path, track=0).samples[0] == 0.25
    assert read_audio(path, track=1).samples[0] == 0.5
    with pytest.raises(InputError, match="has no sound track 2; its tracks are 0"):
        read_audio(path, track=2)
    with pytest.raises(InputError, match="counted from 0"):
        read_audio(path, track=-1)
    sf.write(tmp_path / "a.wav", noise(100), 16000)
    assert len(read_audio(tmp_path / "a.wav", track=0).samples) == 100
    with pytest.raises(InputError, match="only track 0"):
        read_audio(tmp_path / "a.wav", track=1)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    name = os.fsdecode(b"t\xe9.")
    write_audio(folder / f"{name}wav", noise(1000), 16000)
    assert len(read_audio(folder / f"{name}wav").samples) == 1000
    write_tracks(tmp_path / "a.mkv")
    (tmp_path / "a.mkv").rename(folder / f"{name}mkv")
    assert read_audio(folder / f"{name}mkv", track=1).samples[0] == 0.5
    assert sum(len(FolderCorpus(folder).utterances(split)) for split in ("train", "validation", "test")) == 2


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_damaged_rates_are_refused(tmp_path: Path, rate: int) -> None:
    sf.write(tmp_path / "a.wav", noise(1000), rate)
    with pytest.raises(InputError, match=f"a sample rate of {rate} Hz"):
        read_audio(tmp_path / "a.wav")


def test_recordings_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sf.write(tmp_path / "a.flac", np.zeros(200_000), 16000)
    monkeypatch.setattr(audio_module, "LARGEST", 100_000)
    with pytest.raises(InputError, match="more than 100000 samples"):
        read_audio(tmp_path / "a.flac")


def test_rates_of_any_number_type() -> None:
    expected = resample(noise(441), 44100, 16000)
    for rate in (44100.0, np.int64(44100), np.float32(44100)):
        np.testing.assert_array_equal(resample(noise(441), rate, np.int32(16000)), expected)
    for rate in (np.nan, np.inf, 44100.5, -1, None):
        with pytest.raises(InputError, match="a sample rate of"):
            resample(noise(441), rate, 16000)


@pytest.mark.parametrize("kind", ["npy", "npz", "mat"])
def test_lips_that_unfold_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "mat":
        with h5py.File(path, "w") as content:
            content.create_dataset("lips", (10**7, 67 * 67), "f4", chunks=(100, 67 * 67), compression="gzip")
    else:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 67, 67), }"
        header = header.ljust(117) + b"\n"
        npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        path.write_bytes(npy)
        if kind == "npz":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("lips.npy", npy + bytes(10**6))
    begin = time.process_time()
    with pytest.raises(InputError, match="more than 1024 MiB"):
        load_lips_array(path, 25)
    assert time.process_time() - begin < 2


WRITES_UNDER_A_LIMIT = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from avse.data.audio import write_audio
from avse.data.errors import InputError

path, samples = Path(sys.argv[1]), np.random.default_rng(0).normal(0, 0.1, int(sys.argv[2]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
write_audio(path, samples, 16000)
whole = path.stat().st_size
path.write_bytes(b"old")
for size in (10, whole // 3, whole // 2, whole - 100, whole - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        write_audio(path, samples, 16000)
    except InputError as error:
        assert "free" in str(error), error
    else:
        raise AssertionError(f"a file of {whole} bytes was written under a limit of {size}")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]
print("kept")
"""
"""In a process of its own: the limit would hold for the log of the tests as well."""


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.wav"])
@pytest.mark.parametrize("length", [1600, pytest.param(16000, marks=pytest.mark.slow)])
def test_a_disk_that_fills_at_any_byte_keeps_the_old_file(tmp_path: Path, name: str, length: int) -> None:
    command = [sys.executable, "-c", WRITES_UNDER_A_LIMIT, str(tmp_path / name), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "kept\n", done.stderr


@pytest.mark.slow
def test_files_of_killed_processes_are_swept_and_modes_are_ordinary(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom avse.data.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], check=False, timeout=60)
    (left,) = tmp_path.iterdir()
    other = tmp_path / ".avse-00000000-1-00000000.json"  # another machine's, new: it may be at work
    other.write_text("")
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "a.json") as temporary:
        os.close(os.open(temporary, os.O_WRONLY))
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT, 0o600))  # as some writers make their files
    assert not left.exists()
    assert other.exists()
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    os.utime(other, (0, 0))
    with atomic_path(tmp_path / "b.json") as temporary:
        temporary.write_text("whole")
    assert not other.exists()


def corpus(root: Path) -> Path:
    for split in ("train", "validation"):
        (root / split / "anna").mkdir(parents=True)
        sf.write(root / split / "anna" / "a.wav", noise(1600), 16000)
    return root


def test_hidden_files_are_no_part_of_a_corpus(tmp_path: Path) -> None:
    corpus(tmp_path)
    for name in ("train/anna/._a.wav", "train/.trash/a.wav", "__MACOSX/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no sound")
    assert len(FolderCorpus(tmp_path).utterances("train")) == 1
    assert len(FrameDataModule([FolderCorpus(tmp_path)], TINY, cache=tmp_path / "cache").frames("train")) > 0


def test_all_unusable_files_are_named_at_once(tmp_path: Path) -> None:
    corpus(tmp_path)
    for name in ("train/anna/b.wav", "train/anna/c.wav", "validation/anna/d.wav"):
        (tmp_path / name).write_text("no sound")
    data = FrameDataModule([FolderCorpus(tmp_path)], TINY, cache=tmp_path / "cache")
    with pytest.raises(InputError, match=r"b\.wav.*c\.wav.*d\.wav"):
        data.setup("fit")


def test_a_corpus_of_zeros_is_refused(tmp_path: Path) -> None:
    corpus(tmp_path)
    for split in ("train", "validation"):
        sf.write(tmp_path / split / "anna" / "a.wav", np.zeros(1600), 16000)
    data = FrameDataModule([FolderCorpus(tmp_path)], TINY, cache=tmp_path / "cache")
    with pytest.raises(InputError, match="the train split is digital silence"):
        data.setup("fit")


def test_global_generators_stay_as_they_are(tmp_path: Path) -> None:
    corpus(tmp_path)
    speech = noise(16000)
    before = (np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate())  # noqa: NPY002
    first = estoi(speech, speech + noise(16000, 1), 16000)
    FrameDataModule([FolderCorpus(tmp_path)], TINY, cache=tmp_path / "cache").setup("fit")
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]
    assert estoi(speech, speech + noise(16000, 1), 16000) == first
