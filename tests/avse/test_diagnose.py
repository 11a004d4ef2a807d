"""`avse diagnose`: from a file to a page, and how it answers mistakes."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

import avse
from avse.cli import app as cli
from avse.data.errors import InputError
from avse.evaluation.posterior.report import posterior_report
from avse.inference.em.initial import init_from_encoder, init_from_prior
from avse.inference.mcmc.chain import Chain
from avse.inference.mcmc.kernels import RandomWalk
from avse.inference.mcmc.pyro_mcmc import AlternatingSampler, PyroMCMC
from avse.inference.presets import PRESETS, default_mcem
from avse.inference.wiener import average_filter
from avse.models.bayesian_nmf import GammaNMF
from avse.models.noisy import NoisySpeech
from avse.posterior_run import ChainSettings, draw_chains, summarize_posterior

RATE = 16000
FEW = ("--chains", 2, "--draws", 4, "--warmup", 1, "--leapfrog-steps", 1)


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    path = tmp_path / "noisy.wav"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal((RATE, 2)), RATE)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["avse", "diagnose", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def test_writes_one_page_and_says_the_verdict(
    noisy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = noisy.rename(noisy.with_name("<b>&.wav"))
    out = noisy.with_name("report.html")
    before = sorted(noisy.parent.iterdir())
    assert run(monkeypatch, odd, "--out", out, "--seconds", 0.5, *FEW) == 0
    written = capfd.readouterr()
    assert written.out.strip() == str(out)
    assert "Not mixed" in written.err
    text = out.read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;.wav" in text
    assert "<b>" not in text
    assert "Not mixed" in text
    assert "Only the first 0.5 s of 1.0 s were analysed." in text
    assert "Only the first of 2 channels was analysed." in text
    assert sorted(noisy.parent.iterdir()) == sorted([*before, out])


def test_same_seed_same_draws_and_low_rates_have_sounds() -> None:
    """8 kHz fills half the bins: the sounds are whole all the same."""
    x = 0.1 * np.random.default_rng(0).standard_normal(4000)
    long = ChainSettings(2, 4, 1)
    first, second, other = (
        summarize_posterior(x, 8000, model="a-vae", settings=long, seed=seed) for seed in (0, 0, 1)
    )
    assert first.spectrum.shape[-1] < first.stft.bins
    for name, sound in first.sounds.items():
        assert sound.shape == (8000,)
        assert np.isfinite(sound).all()
        np.testing.assert_array_equal(sound, second.sounds[name])
    assert not np.array_equal(first.sounds["enhanced"], other.sounds["enhanced"])


def test_lips_are_looked_at(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (30, 67, 67), dtype=np.uint8)
    np.save(noisy.with_name("lips.npy"), pictures)
    options = ["--video", noisy.with_name("lips.npy"), "--fps", 30, "--model", "av-vae", "--seconds", 0.5]
    out = noisy.with_name("report.html")
    # The page is drawn by the test above: here it tells what it would be drawn of.
    monkeypatch.setattr(
        "avse.evaluation.posterior.report.posterior_report", lambda found: str(dict(found.facts))
    )
    assert run(monkeypatch, noisy, "--out", out, *options, *FEW) == 0
    told = out.read_text(encoding="utf-8")
    assert "av-vae" in told


def silent(folder: Path, good: Path) -> list[object]:
    sf.write(folder / "silent.wav", np.zeros(RATE), RATE)
    return [folder / "silent.wav"]


def not_finite(folder: Path, good: Path) -> list[object]:
    sf.write(folder / "nan.wav", np.array([0.1, np.nan] * RATE), RATE, subtype="FLOAT")
    return [folder / "nan.wav"]


def short(folder: Path, good: Path) -> list[object]:
    sf.write(folder / "short.wav", np.full(100, 0.1), RATE)
    return [folder / "short.wav"]


MISTAKES = {
    "missing": (lambda folder, good: [folder / "absent.wav"], "absent.wav"),
    "silent": (silent, "silent.wav"),
    "not finite": (not_finite, "nan.wav"),
    "short": (short, "short.wav"),
    "no lips": (lambda folder, good: [good, "--model", "av-vae"], "lips"),
    "no video": (lambda folder, good: [good, "--video", folder / "absent.mp4"], "absent.mp4"),
    "unknown model": (lambda folder, good: [good, "--model", "b-vae"], "b-vae"),
    "no folder": (lambda folder, good: [good, "--out", folder / "absent" / "report.html"], "absent"),
    "a folder": (lambda folder, good: [good, "--out", folder], "html"),
    "not a page": (lambda folder, good: [good, "--out", folder / "report.pdf"], "report.pdf"),
    "one chain": (lambda folder, good: [good, "--chains", 1], "chains"),
    "few draws": (lambda folder, good: [good, "--draws", 3], "draws"),
    "warmup": (lambda folder, good: [good, "--warmup", -1], "warmup"),
    "leapfrog": (lambda folder, good: [good, "--leapfrog-steps", 0], "leapfrog"),
    "no seconds": (lambda folder, good: [good, "--seconds", 0], "seconds"),
    "many seconds": (lambda folder, good: [good, "--seconds", 3600], "seconds"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_one_line_exit_code_2_and_no_lost_file(
    name: str, noisy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = noisy.with_name("kept.html")
    kept.write_bytes(b"an earlier report")
    make, word = MISTAKES[name]
    arguments = make(noisy.parent, noisy)
    before = sorted(noisy.parent.rglob("*"))
    out = [] if "--out" in arguments else ["--out", kept]
    assert run(monkeypatch, *arguments, *out) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("avse: ")
    assert word in line
    assert kept.read_bytes() == b"an earlier report"
    assert sorted(noisy.parent.rglob("*")) == before


def test_the_old_page_is_kept_when_the_new_one_fails(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = noisy.with_name("report.html")
    out.write_bytes(b"an earlier report")

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avse.evaluation.posterior.report.posterior_report", full)
    assert run(monkeypatch, noisy, "--out", out, "--seconds", 0.3, *FEW) == cli.USER_ERROR
    assert out.read_bytes() == b"an earlier report"
    assert sorted(path.name for path in noisy.parent.iterdir()) == ["noisy.wav", "report.html"]


@pytest.mark.parametrize("values", [{"chains": 1}, {"draws": 3}, {"warmup": -1}])
def test_chains_that_tell_nothing_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError):
        ChainSettings(**values)


@pytest.mark.slow
def test_chains_that_never_moved_in_any_frame_get_a_page_that_says_so() -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(RATE // 2)
    found = summarize_posterior(
        samples, RATE, model="a-vae", settings=ChainSettings(2, 10, 0, kernel=RandomWalk(1e4))
    )
    assert found.diagnosis.stuck.all()
    assert not found.diagnosis.mixed
    assert 'class="verdict bad"' in posterior_report(found)


MCMC = PyroMCMC(default_mcem(), chains=2, draws=6, warmup=4)


def test_the_draws_of_mcmc_are_assessed_as_they_come() -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(RATE // 3)
    found = summarize_posterior(samples, RATE, model="a-vae", algorithm=MCMC, settings=None)
    enhancement = avse.enhance(samples, RATE, model="a-vae", algorithm=MCMC)
    expected = enhancement.posterior.z[:, :, 0]
    assert found.diagnosis.functionals["level"].shape[:2] == expected.shape[:2] == (2, 6)
    np.testing.assert_allclose(found.inference_data.posterior["z"], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.sounds["enhanced"], enhancement.speech, atol=1e-4)
    assert found.facts["sampler"] == "PyroMCMC"
    assert found.facts["chains"] == "2 chains of 6 draws"


@pytest.mark.slow
def test_the_draws_of_mcmc_have_a_page() -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(RATE // 3)
    assert posterior_report(summarize_posterior(samples, RATE, model="a-vae", algorithm=MCMC, settings=None))


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        (replace(MCMC, draws=3), "2 chains of 3 draws"),
        (replace(MCMC, chains=1), "1 chains of 6 draws"),
        (replace(MCMC, sampler=AlternatingSampler(), noise_prior=GammaNMF.around), "draws the noise"),
    ],
)
def test_own_draws_that_tell_nothing_are_refused(algorithm: PyroMCMC, words: str) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(RATE // 3)
    with pytest.raises(InputError, match=words):
        summarize_posterior(samples, RATE, model="a-vae", algorithm=algorithm, settings=None)


OF_OTHER_DENSITIES = {
    "amortised": "a-vae",
    "fine-tuned": "a-vae",
    "vem": "a-vae",
    "vem-traced": "a-vae",
    "paper-vem": "a-vae",
    "mcem-mixture": "vae-mm",
}
"""Presets whose draws are of the guide, of a mean-field factor, or of components mixed by a tempered weight,
and a model for each."""
WEIGHTED = ("mcem-anchored", "amortised-lips")
"""Presets that weight the lips where there are any."""
OF_CHAINS = {"mcem", "mcem-lips", "mcem-branches", "mcmc", "mcmc-em", "mcmc-full-bayes", "paper", "paper-hmc"}
"""Presets whose draws are Markov chains on p(z | x), or p(z, W, H | x)."""


def test_every_preset_is_known_by_its_draws() -> None:
    assert set(PRESETS) == {*OF_OTHER_DENSITIES, *WEIGHTED, *OF_CHAINS}


def with_comparable_counts(preset: str) -> Any:
    """A preset cut down to one iteration, with two chains of five draws, so that counts are no reason."""
    algorithm: Any = PRESETS[preset]()
    if preset in ("amortised", "fine-tuned"):
        return replace(algorithm, iterations=1)  # it has one chain, of draws that are independent
    inits = (init_from_prior, init_from_encoder) if preset != "mcem-mixture" else algorithm.latent_inits
    return replace(algorithm, iterations=1, latent_inits=inits, final=Chain(RandomWalk(0.1), 6, 1))


@pytest.mark.parametrize("preset", OF_OTHER_DENSITIES)
def test_own_draws_of_another_density_are_refused(preset: str) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(RATE // 3)
    face = np.random.default_rng(0).integers(0, 255, (10, 67, 67), dtype=np.uint8)
    model = OF_OTHER_DENSITIES[preset]
    lips: dict[str, Any] = {"video": face, "fps": 30} if model == "vae-mm" else {}
    algorithm = with_comparable_counts(preset)
    settings: dict[str, Any] = {"model": model, "settings": None, **lips}
    with pytest.raises(InputError, match="not Markov chains") as before:
        summarize_posterior(samples, RATE, algorithm=algorithm, **settings)
    assert type(algorithm).__name__ in str(before.value)
    assert "\n" not in str(before.value)
    with pytest.raises(InputError, match="'function' are not Markov chains"):  # known from its draws
        summarize_posterior(samples, RATE, algorithm=lambda *given: algorithm(*given), **settings)


@pytest.mark.parametrize("preset", [*OF_OTHER_DENSITIES, *WEIGHTED])
def test_presets_of_other_densities_are_refused_before_they_run(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        raise AssertionError("the fit was started")

    algorithm: Any = PRESETS[preset]()
    monkeypatch.setattr(type(algorithm), "__call__", run)
    samples = 0.1 * np.random.default_rng(0).standard_normal(RATE // 3)
    face = np.random.default_rng(0).integers(0, 255, (10, 67, 67), dtype=np.uint8)
    with pytest.raises(InputError, match=f"'{preset}'"):
        summarize_posterior(
            samples, RATE, video=face, fps=30, model="vae-mm", algorithm=preset, settings=None
        )


@pytest.mark.parametrize("preset", ["mcem", pytest.param("mcmc-em", marks=pytest.mark.slow), "paper"])
def test_own_draws_of_the_model_are_assessed(preset: str) -> None:
    """The draws of these presets are Markov chains on p(z | x), whatever their sampler."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(RATE // 3)
    mcem: Any = PRESETS[preset]()
    algorithm = replace(
        mcem, em=replace(mcem.em, iterations=1), latent_inits=(init_from_prior, init_from_encoder)
    )
    found = summarize_posterior(samples, RATE, model="a-vae", algorithm=algorithm, settings=None)
    assert found.facts["chains"].startswith("2 chains of ")


def test_long_chains_keep_nothing_of_the_weights_and_draws_of_the_fit() -> None:
    """Chains on p(z | x) at the fitted noise, after a fit that weighted the lips and drew the noise."""
    pair, generator = avse.load("a-vae"), torch.Generator().manual_seed(0)
    power = torch.rand(6, pair.stft.bins, generator=generator)
    mcem = replace(default_mcem(), em=replace(default_mcem().em, iterations=1))
    fitted = mcem(pair.model, pair.guide, power, None, generator)
    other = replace(fitted, visual_weight=torch.ones(6), noise_draws={"W": torch.ones(3, 7, 8, 513)})
    noisy = NoisySpeech(pair.model, fitted.noise)
    settings = ChainSettings(2, 5, 1)
    found = draw_chains(noisy, other, power, None, settings, generator, lambda fraction: None)
    assert found.visual_weight is None
    assert found.noise_draws is None
    assert (found.noise, found.costs, found.gain_floor) == (fitted.noise, fitted.costs, fitted.gain_floor)
    assert found.z.shape == (2, 5, 6, 32)
    assert found.acceptance.shape == (6,)
    assert found.step_size.shape == (2, 6)  # type: ignore[union-attr]
    assert found.energy.shape == found.diverged.shape == (2, 5, 6)  # type: ignore[union-attr]
    average = average_filter(noisy, found.z.flatten(0, 1), power)
    torch.testing.assert_close(found.wiener_gain, average.gain)


def test_the_command_refuses_the_draws_of_a_mean_field(
    noisy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = noisy.with_name("report.html")
    options = ("--seconds", 0.3, "--algorithm", "vem", "--chains", 0)
    assert run(monkeypatch, noisy, "--out", out, *options) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "'vem' are not Markov chains" in line
    assert not out.exists()


@pytest.mark.slow
def test_the_command_takes_an_algorithm(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = noisy.with_name("report.html")
    assert run(monkeypatch, noisy, "--out", out, "--seconds", 0.3, "--algorithm", "vem", *FEW) == 0
    page = out.read_text(encoding="utf-8")
    assert "vem" in page
    assert run(monkeypatch, noisy, "--out", out, "--algorithm", "none") == cli.USER_ERROR
    assert out.read_text(encoding="utf-8") == page
