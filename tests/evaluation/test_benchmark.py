"""The benchmark's mixtures, scores and tables, on sounds made here."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from avse.data.corpora.synthetic import utterance_speech
from avse.evaluation import benchmark, tables
from avse.evaluation.benchmark import MixtureSpec
from avse.evaluation.scores import Score, load_scores, save_scores, scored

RATE = benchmark.RATE
NAMES = ("si_sdr", "sdr", "pesq_wb", "pesq_nb", "stoi", "estoi")


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    paths = []
    for speaker in range(2):
        speech = utterance_speech(0, speaker, 0)
        sf.write(tmp_path / f"{speaker}.wav", speech.samples, speech.sample_rate)
        paths.append(tmp_path / f"{speaker}.wav")
    return paths


def silence_half(mixture: np.ndarray, spec: MixtureSpec) -> np.ndarray:
    return mixture * (np.arange(len(mixture)) < len(mixture) // 2)


def as_it_is(mixture: np.ndarray, spec: MixtureSpec) -> np.ndarray:
    return mixture


def score(system: str, noise: str, level: float, gain: float) -> Score:
    noisy = dict.fromkeys(NAMES, 0.0)
    return Score("a.wav", noise, level, 0, system, noisy, dict.fromkeys(NAMES, gain))


def test_mixtures_have_the_stated_level_and_repeat(clips: list[Path]) -> None:
    for spec in benchmark.cross(clips, {"white": []}, [-5.0, 5.0]):
        speech, mixture = benchmark.make_mixture(spec)
        noise = (mixture - speech).astype(np.float64)
        level = 10 * np.log10((speech.astype(np.float64) ** 2).sum() / (noise**2).sum())
        assert level == pytest.approx(spec.level, abs=0.01)
        np.testing.assert_array_equal(mixture, benchmark.make_mixture(spec)[1])


def test_seeds_differ_between_mixtures_and_do_not_depend_on_the_share(clips: list[Path]) -> None:
    everything = benchmark.cross(clips, {"white": [], "pink": []}, [-5.0, 0.0, 5.0])
    assert len({spec.seed for spec in everything}) == len(everything) == 12
    assert set(benchmark.cross(clips, {"white": [], "pink": []}, [-5.0, 0.0, 5.0], share=3)) < set(everything)


def test_a_share_stays_balanced() -> None:
    clips = [Path(f"{c}.wav") for c in range(18)]
    noises: dict[str, list[Path]] = {name: [] for name in "abcdef"}
    for share in (2, 9, 18):
        specs = benchmark.cross(clips, noises, [-5.0, 0.0, 5.0], share=share)
        cells = Counter((spec.noise_type, spec.level) for spec in specs)
        assert set(cells.values()) == {18 // share}
        assert len(cells) == 18


def test_scores_of_systems(clips: list[Path]) -> None:
    specs = benchmark.cross(clips[:1], {"white": []}, [0.0])
    nothing, half = scored(specs, {"nothing": as_it_is, "half": silence_half}, jobs=1)
    assert all(nothing.gain(metric) == pytest.approx(0, abs=1e-6) for metric in NAMES)
    assert half.gain("stoi") < -0.1


def test_scores_survive_a_file(tmp_path: Path) -> None:
    some = [score("a", "white", 0.0, 1.0), score("a", "car", 5.0, 2.0)]
    save_scores(tmp_path / "scores.jsonl", some)
    assert load_scores(tmp_path / "scores.jsonl") == some


def test_tables_and_worst_cell() -> None:
    scores = [score("a", "white", 0.0, 1.0), score("a", "white", 0.0, 3.0), score("a", "car", 5.0, -1.0)]
    assert tables.mean_gain(scores, "si_sdr") == pytest.approx(1.0)
    assert tables.worst_cell(scores) == ("car", 5.0, -1.0)
    table = tables.markdown_table(scores)
    assert "| white | +2.00 / +2.00 / +2.000 |" in table
    both = tables.systems_table([*scores, score("b", "white", 0.0, 7.0)])
    assert both.splitlines()[-1].startswith("| b | +7.00 ")


def test_undefined_metrics_are_left_out_of_means() -> None:
    assert tables.mean_gain([score("a", "x", 0.0, float("nan")), score("a", "x", 0.0, 2.0)], "sdr") == 2.0


def test_differences_are_paired_and_their_error_is_over_clips() -> None:
    """Clip a gains 1 in both noises, clip b 3: mean 2, error sqrt(2) / sqrt(2) = 1."""
    zero = dict.fromkeys(NAMES, 0.0)
    scores = []
    for clip, gain, start in (("a", 1.0, 5.0), ("b", 3.0, -7.0)):
        for noise in ("cafe", "white"):
            for system, value in (("old", start), ("new", start + gain)):
                scores.append(Score(clip, noise, 0.0, 0, system, zero, dict.fromkeys(NAMES, value)))
    table = tables.differences_table(scores, "old", ["si_sdr"])
    assert "| new | +2.00 ± 1.00 |" in table
    assert "| old |" not in table
