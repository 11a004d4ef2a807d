"""Protocols list the mixtures that they promise, at the stated levels, and say what they cannot use."""

import csv
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from avse.data.errors import InputError
from avse.data.speech_level import active_speech_level
from avse.evaluation import protocols
from avse.evaluation.benchmark import AS_RELEASED, RATE, SPEECH_ACTIVE
from avse.evaluation.protocols import Folder, Grid, NTCDTimit, ReadyPairs, Synthetic

NTCD_NOISES = ("Babble", "Cafe", "Car", "LR", "Street", "White")


def sound(
    path: Path, seconds: float = 0.5, seed: int = 0, rate: int = RATE, gate: bool = False
) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
    if gate:
        samples[len(samples) // 2 :] = 0
    sf.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return samples.astype(np.float32)


def level(speech: np.ndarray, mixture: np.ndarray) -> float:
    noise = (mixture - speech).astype(np.float64)
    return float(10 * np.log10((speech.astype(np.float64) ** 2).sum() / (noise**2).sum()))


@pytest.fixture
def grid_root(tmp_path: Path) -> Path:
    """Two test speakers with nine clips each, one of training, and three types of noise."""
    rows = []
    for speaker, split in (("s1", "test"), ("s2", "test"), ("s3", "train")):
        for index in range(9):
            name = f"grid/{speaker}/{index}.wav"
            sound(tmp_path / name, 0.3, index)
            rows.append((name, "av", speaker, split))
    for noise in ("cafe", "babble", "kitchen"):
        sound(tmp_path / f"noise/{noise}.wav", 1.0, 50)
        rows.append((f"noise/{noise}.wav", "noise", noise, "all"))
    with (tmp_path / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "kind", "speaker_or_type", "split"), *rows])
    return tmp_path


def test_grid_crosses_speakers_of_the_split_with_noises_and_levels(grid_root: Path) -> None:
    protocol = Grid(
        root=str(grid_root), noises=("cafe", "kitchen", "white"), levels=(-5.0, 0.0, 5.0), share=1
    )
    specs = protocol.mixtures()
    assert len(specs) == 18 * 3 * 3
    assert {spec.speaker for spec in specs} == {"s1", "s2"}
    assert specs[0].mixture == "s1/0 cafe -5 dB"
    for spec in specs[:9]:
        speech, mixture = protocol.sounds(spec)
        assert level(speech, mixture) == pytest.approx(spec.level, abs=0.01)
    assert pickle.loads(pickle.dumps(protocol)) == protocol


def test_a_share_of_grid_is_balanced(grid_root: Path) -> None:
    protocol = Grid(root=str(grid_root), noises=("cafe", "babble", "white"), levels=(-5.0, 0.0, 5.0))
    cells = Counter((spec.noise_type, spec.level) for spec in protocol.mixtures())
    assert len(cells) == 9
    assert set(cells.values()) == {2}


def test_levels_can_be_those_of_active_speech(tmp_path: Path) -> None:
    sound(tmp_path / "speech/a.wav", 8.0, gate=True)
    protocol = Folder(root=str(tmp_path / "speech"), levels=(3.0,), level_definition="speech-active")
    (spec,) = protocol.mixtures()
    assert spec.level_definition == protocol.level_definition == SPEECH_ACTIVE
    speech, mixture = protocol.sounds(spec)
    noise_level = 10 * np.log10(np.mean((mixture - speech).astype(np.float64) ** 2))
    assert active_speech_level(speech, RATE).level - noise_level == pytest.approx(3, abs=0.01)
    assert level(speech, mixture) == pytest.approx(3 - 10 * np.log10(2), abs=0.3)


def test_a_folder_of_speech_meets_a_folder_of_noises(tmp_path: Path) -> None:
    sound(tmp_path / "speech/anna/1.wav", 0.5)
    sound(tmp_path / "speech/bert/1.flac", 0.5, 1, rate=22050)
    sound(tmp_path / "noise/fan/short.wav", 0.1, 2)
    sound(tmp_path / "noise/hum.wav", 2.0, 3)
    protocol = Folder(root=str(tmp_path / "speech"), noise_root=str(tmp_path / "noise"), levels=(0.0,))
    specs = protocol.mixtures()
    assert [spec.mixture for spec in specs] == [
        "anna/1 fan 0 dB",
        "anna/1 hum 0 dB",
        "bert/1 fan 0 dB",
        "bert/1 hum 0 dB",
    ]
    for spec in specs:  # a noise of 0.1 s is looped
        speech, mixture = protocol.sounds(spec)
        assert len(mixture) == len(speech) == pytest.approx(RATE / 2, abs=1)
        assert level(speech, mixture) == pytest.approx(0, abs=0.01)
        noise = mixture - speech
        assert np.abs(noise[-800:]).max() > 0.1 * np.abs(noise).max()
    assert not protocol.has_lips


def test_clips_of_one_name_are_told_apart(tmp_path: Path) -> None:
    sound(tmp_path / "anna/day/1.wav")
    sound(tmp_path / "anna/night/1.wav")
    names = [spec.mixture for spec in Folder(root=str(tmp_path), levels=(0.0,)).mixtures()]
    assert names == ["anna/day/1.wav white 0 dB", "anna/night/1.wav white 0 dB"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for name in ("p1_001", "p1_002", "p2_001"):
        clean = sound(tmp_path / f"clean_testset_wav/{name}.wav", 0.5, 0, rate=48000)
        noisy = clean + 0.05 * np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
        (tmp_path / "noisy_testset_wav").mkdir(exist_ok=True)
        sf.write(tmp_path / f"noisy_testset_wav/{name}.wav", noisy, 48000, subtype="FLOAT")
    return tmp_path


def test_ready_pairs_are_taken_as_they_are(pairs: Path) -> None:
    (pairs / "log_testset.txt").write_text("p1_001 bus 12.5\np1_002 cafe 2.5\n")
    protocol = ReadyPairs(root=str(pairs))
    specs = protocol.mixtures()
    assert [(s.mixture, s.speaker, s.noise_type, s.level) for s in specs] == [
        ("p1_001", "p1", "bus", None),
        ("p1_002", "p1", "cafe", None),
        ("p2_001", "p2", AS_RELEASED, None),
    ]
    speech, mixture = protocol.sounds(specs[0])
    assert speech.shape == mixture.shape == (8000,)
    assert [s.speaker for s in ReadyPairs(root=str(pairs), speakers=("p2",)).mixtures()] == ["p2"]


def test_pairs_that_do_not_fit_are_named(pairs: Path) -> None:
    sound(pairs / "noisy_testset_wav/p1_001.wav", 0.4, rate=48000)
    sound(pairs / "noisy_testset_wav/p1_002.wav", 0.5, rate=16000)
    (pairs / "noisy_testset_wav/p2_001.wav").unlink()
    protocol = ReadyPairs(root=str(pairs))
    reasons = []
    for spec in protocol.mixtures():
        with pytest.raises(InputError) as error:
            protocol.sounds(spec)
        reasons.append(str(error.value))
    assert "6400 samples at 16000 Hz, its clean speech 8000" in reasons[0]
    assert "16000 Hz, its clean speech 48000 Hz" in reasons[1]
    assert "does not exist" in reasons[2]


@pytest.fixture
def ntcd(tmp_path: Path) -> Path:
    """Two test speakers with six sentences in all noises; mixtures are scaled by 0.5."""
    for number, speaker in enumerate(("09F", "24M")):
        for sentence in range(6):
            name = f"volunteers/{speaker}/straightcam/sx{sentence}.wav"
            clean = sound(tmp_path / "Clean" / name, 0.3, 10 * number + sentence)
            for k, noise in enumerate(NTCD_NOISES):
                for released in (-5, 20):
                    added = sound(tmp_path / noise / str(released) / name, 0.3, 100 + k)
                    sf.write(tmp_path / noise / str(released) / name, 0.5 * (clean + added), RATE)
    return tmp_path


def test_ntcd_timit_has_five_sentences_for_every_speaker_and_noise(ntcd: Path) -> None:
    protocol = NTCDTimit(root=str(ntcd), levels=(-15.0, 0.0))
    specs = protocol.mixtures()
    assert len(specs) == 2 * 6 * 5 * 2
    cells = Counter((spec.speaker, spec.noise_type, spec.level) for spec in specs)
    assert set(cells.values()) == {5}
    drawn = [{s.name for s in specs if (s.noise_type, s.level) == ("Car", own)} for own in (-15.0, 0.0)]
    assert drawn[0] == drawn[1]
    assert len({spec.mixture for spec in specs}) == len({spec.seed for spec in specs}) == len(specs)
    for spec in specs[::20]:
        speech, mixture = protocol.sounds(spec)
        assert level(speech, mixture) == pytest.approx(spec.level, abs=0.01)
        assert "/-5/" in spec.noisy
        noise = mixture - speech
        assert abs(np.vdot(speech, noise)) < 1e-3 * np.linalg.norm(speech) * np.linalg.norm(noise)


def test_ntcd_timit_with_all_its_speakers_has_270_mixtures_a_level(ntcd: Path) -> None:
    for speaker in ("26M", "27M", "33F", "40F", "47M", "49F", "56M"):
        for sentence in range(7):
            path = ntcd / f"Clean/volunteers/{speaker}/straightcam/sa{sentence}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert len(NTCDTimit(root=str(ntcd), levels=(0.0,)).mixtures()) == 270


def test_synthetic_voices_have_lips_and_stated_levels() -> None:
    protocol = Synthetic(levels=(-5.0,), noises=("pink",))
    specs = protocol.mixtures()
    assert len(specs) == 40
    assert len({spec.seed for spec in specs}) == 40
    speech, mixture = protocol.sounds(specs[0])
    assert level(speech, mixture) == pytest.approx(-5, abs=0.01)
    lips = protocol.lips(specs[0])
    assert lips.times[-1] == pytest.approx(len(speech) / RATE, abs=0.05)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: Grid(root=f"{root}/absent").mixtures(), "no such folder"),
        (lambda root: Grid(root=str(root)).mixtures(), "no splits.csv"),
        (lambda root: Folder(root=str(root)).mixtures(), "no sound files"),
        (lambda root: Folder(root="").mixtures(), "no folder of the corpus"),
        (lambda root: ReadyPairs(root=str(root)).mixtures(), "clean_testset_wav or clean, found none"),
        (lambda root: NTCDTimit(root=str(root)).mixtures(), "no speech found"),
        (lambda root: Synthetic(noises=("cafe",)).mixtures(), "no noise cafe; use pink, white"),
        (lambda root: Synthetic(speakers=("anna",)).mixtures(), "no speech of anna"),
        (lambda root: Synthetic(levels=("low",)), "level 'low': give numbers in dB"),  # type: ignore[arg-type]
        (lambda root: Synthetic(levels=(float("nan"),)), "give numbers in dB"),
        (lambda root: Synthetic(levels=()), "no level"),
        (lambda root: Synthetic(level_definition="loud"), "broadband or speech-active"),
        (lambda root: Synthetic(split="tests"), "unknown split"),
        (lambda root: Synthetic(share=0), "at least 1"),
    ],
)
def test_what_cannot_be_used_is_named(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        make(tmp_path)


def test_unknown_noises_and_speakers_of_a_table_are_named(grid_root: Path) -> None:
    with pytest.raises(InputError, match="no noise rain; use babble, cafe, kitchen, pink, white"):
        Grid(root=str(grid_root), noises=("rain",)).mixtures()
    with pytest.raises(InputError, match="no speech of s3 in the split 'test'; it has s1, s2"):
        Grid(root=str(grid_root), noises=("cafe",), speakers=("s3",)).mixtures()


def test_every_protocol_has_its_name() -> None:
    assert list(protocols.PROTOCOLS) == ["grid", "ntcd-timit", "voicebank-demand", "folder", "synthetic"]
