"""One job of the page: sounds, pictures and messages, its limits, and the priors that it offers."""

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.stats
import soundfile as sf
import torch
from pyro import poutine

import avse
from avse.data.audio import resample
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.errors import InputError
from avse.inference.presets import PRESETS
from avse.models.sites import ALPHA, Z
from avse.serve import uploads
from avse.serve.choices import AMORTISED, AUTO, MODELS, OWN, PRIORS, check_choice
from avse.serve.job import SAMPLES, Request, posterior_samples, run_job
from avse.serve.priors import INDEPENDENT, with_prior
from avse.serve.uploads import MAX_SECONDS, check_pictures, read_sound, without_paths
from avse.zoo import shipped

RATE = 16000


def tone_in_noise(seconds: float, rate: int = RATE) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return 0.2 * np.sin(2 * np.pi * 300 * times) + 0.05 * np.random.default_rng(0).standard_normal(len(times))


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A third of a second of stereo sound under a name without suffix, as the server stores it."""
    samples = tone_in_noise(0.3)
    sf.write(tmp_path / "upload", np.stack([samples, samples], 1), RATE, "PCM_16", format="WAV")
    return tmp_path / "upload"


def samples_of(wav: bytes) -> np.ndarray:
    return sf.read(io.BytesIO(wav))[0]


def test_a_job_gives_sounds_that_add_up_and_pictures(upload: Path) -> None:
    told: list[tuple[str, float]] = []
    result = run_job(Request(upload), lambda doing, fraction: told.append((doing, fraction)))
    noisy, enhanced, noise = (samples_of(result.sounds[name].wav) for name in ("noisy", "enhanced", "noise"))
    assert set(result.sounds) == {"noisy", "enhanced", "noise", *(f"sample-{n + 1}" for n in range(SAMPLES))}
    assert {len(samples_of(sound.wav)) for sound in result.sounds.values()} == {4800}
    assert np.abs(noisy - enhanced - noise).max() < 3 / 2**15  # three roundings to 16 bits
    assert np.abs(noisy - tone_in_noise(0.3)).max() < 3 / 2**15
    assert set(result.pictures) == {"noisy", "enhanced", "noise", "uncertainty"}
    assert all(picture.image.startswith("data:image/svg") for picture in result.pictures.values())
    assert result.facts["model"] == "a-vae"
    assert any("2 channels" in note for note in result.notes)
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert len({doing for doing, _ in told}) == 4


def test_what_a_prior_with_alpha_shows(upload: Path) -> None:
    result = run_job(Request(upload, "a-vae", "mcem", "two-normals"))
    assert result.alpha
    assert {"image", "narrow"} <= set(result.pictures["alpha"]._asdict())
    assert result.pictures["alpha"].narrow != result.pictures["alpha"].image


def test_a_job_that_is_told_to_stop_stops(upload: Path) -> None:
    def stop(doing: str, fraction: float) -> None:
        if doing == "enhancing":
            raise InputError("stopped")

    with pytest.raises(InputError, match="stopped"):
        run_job(Request(upload), stop)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_samples_of_the_speech_lie_around_the_enhanced_speech(rate: int) -> None:
    """In nearly clean speech their mean is near to it, and nearer than each.

    A wrong scale, or bins in wrong places, would leave an error as large as the speech. 60 samples would
    leave 1/60 of the error of each if they shared no draw of z; they share 6 draws, which leaves up to 1/6
    of their part of it.
    """
    face = talking_face(0)
    clean = resample(face.clean[: round(0.8 * face.sample_rate)], face.sample_rate, rate)
    noisy = clean + 0.01 * clean.std() * np.random.default_rng(0).standard_normal(len(clean))
    found = avse.enhance(noisy, rate, model="a-vae", seed=0)
    drawn = np.concatenate([posterior_samples(found, len(noisy), seed)[0] for seed in range(20)])
    assert drawn.shape == (20 * SAMPLES, len(noisy))
    each, mean = np.square(drawn - found.speech).mean(), np.square(drawn.mean(0) - found.speech).mean()
    assert mean < 0.1 * np.square(found.speech).mean()
    assert mean < 0.25 * each


def test_weighted_lips_give_normal_samples_with_the_moments() -> None:
    found = avse.enhance(tone_in_noise(0.4), RATE, model="a-vae", seed=0)
    assert posterior_samples(found, 6400, 0)[1]
    weighted = replace(found.posterior, visual_weight=torch.ones(1, found.spectrum.shape[1]))
    found = replace(found, posteriors=(weighted,))
    drawn, exact = zip(*(posterior_samples(found, 6400, seed) for seed in range(20)), strict=True)
    assert not any(exact)
    mean = found.stft.synthesis(found.wiener_gain * found.spectrum, 6400)[0].numpy()
    pooled = np.concatenate(drawn)
    assert np.square(pooled.mean(0) - mean).mean() < 2 / 60 * np.square(pooled - mean).mean()


LOG_DENSITIES = {
    "standard": lambda z: scipy.stats.norm.logpdf(z),
    "narrow": lambda z: scipy.stats.norm.logpdf(z, scale=0.5),
    "wide": lambda z: scipy.stats.norm.logpdf(z, scale=2),
    "student-t": lambda z: scipy.stats.t.logpdf(z, 5),
    "laplace": lambda z: scipy.stats.laplace.logpdf(z, scale=0.5**0.5),
}


@pytest.mark.parametrize("model", ["a-vae", "av-vae-synthetic"])
@pytest.mark.parametrize("name", LOG_DENSITIES)
def test_the_prior_of_that_name_is_in_the_model(model: str, name: str) -> None:
    pair = avse.load(model)
    changed = with_prior(pair, name)
    visual = None if pair.config.lips is None else torch.zeros(2, pair.config.lips.size)
    trace = poutine.trace(changed.model.latent).get_trace(visual)
    z = 3 * torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    expected = LOG_DENSITIES[name](z.double().numpy()).sum(-1)
    assert trace.nodes[Z]["fn"].log_prob(z).numpy() == pytest.approx(expected, rel=1e-5)
    assert changed.model.decoder is pair.model.decoder
    assert pair.model is not changed.model


def test_the_prior_of_two_normals_has_alpha() -> None:
    changed = with_prior(avse.load("a-vae"), "two-normals")
    trace = poutine.trace(changed.model.latent).get_trace()
    assert trace.nodes[ALPHA]["fn"].probs.tolist() == [0.5, 0.5]
    std = (0.5, 1.5)[int(trace.nodes[ALPHA]["value"])]
    z = torch.ones(32)
    expected = scipy.stats.norm.logpdf(1, scale=std) * 32
    assert float(trace.nodes[Z]["fn"].log_prob(z)) == pytest.approx(expected, rel=1e-5)


def test_mixtures_keep_their_prior() -> None:
    with pytest.raises(InputError, match="cannot be replaced"):
        with_prior(avse.load("min-vae-v1"), "wide")


def test_what_is_offered_exists() -> None:
    assert set(MODELS) - {AUTO} <= set(shipped())
    for model in MODELS.values():
        assert model.algorithms[0] == AUTO
        assert model.name == AUTO or avse.load(model.name).config.algorithm in model.algorithms
        assert set(model.algorithms) - {AUTO} <= set(PRESETS)
        assert model.priors[0] == OWN
        assert set(model.priors) <= set(PRIORS)
    assert set(PRIORS) == {OWN, "two-normals", *INDEPENDENT}


def test_what_is_not_offered_is_refused() -> None:
    check_choice("a-vae", "mcem", "wide")
    for choice in (
        ("/etc/passwd", AUTO, OWN),
        ("a-vae", "fine-tuned", OWN),
        ("vae-mm", AUTO, "wide"),
        ("a-vae", "amortised", "wide"),
    ):
        with pytest.raises(InputError, match=": choose"):
            check_choice(*choice)


@pytest.mark.parametrize("prior", [name for name in MODELS["a-vae"].priors if name != OWN])
def test_every_prior_runs(upload: Path, prior: str) -> None:
    algorithm = {"wide": "vem", "student-t": "mcem"}.get(prior, AUTO)
    result = run_job(Request(upload, "a-vae", algorithm, prior))
    assert result.facts["prior of z"] == PRIORS[prior]
    assert result.facts["algorithm"].split()[0] in ("vem", "mcem")
    assert np.isfinite(samples_of(result.sounds["enhanced"].wav)).all()


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in MODELS if MODELS[name].priors != (OWN,)])
def test_every_prior_runs_with_every_algorithm_that_is_offered(model: str) -> None:
    face, pair, choice = talking_face(0), avse.load(model), MODELS[model]
    noisy = face.noisy[: round(0.3 * face.sample_rate)]
    for prior in choice.priors:
        for algorithm in choice.algorithms:
            if prior != OWN and algorithm in AMORTISED:
                continue
            found = avse.enhance(
                noisy, face.sample_rate, video=face.lips, model=with_prior(pair, prior), algorithm=algorithm
            )
            assert np.isfinite(found.speech).all(), (prior, algorithm)
            assert np.isfinite(posterior_samples(found, len(noisy), 0)[0]).all(), (prior, algorithm)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vae-mm", "min-vae-v1", "min-vae-v2"])
def test_mixtures_show_alpha_with_every_algorithm(model: str) -> None:
    weighted = (AUTO, "amortised-lips", "mcem-anchored")
    for algorithm in MODELS[model].algorithms:
        result = run_job(Request(None, model, algorithm))
        assert result.alpha
        assert result.pictures["alpha"].image
        assert {"clean", "sample-3"} <= set(result.sounds)
        assert result.exact_samples == (algorithm not in weighted or model != "vae-mm")


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        run_job(Request(path, "a-vae"))
    assert str(path.parent) not in str(error.value)
    assert "/" not in str(error.value)
    return str(error.value)


def test_recordings_beyond_the_limits_are_refused_without_a_path(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"")
    assert "is empty" in refused(path)
    path.write_text("no sound")
    assert "the recording" in refused(path)
    sf.write(path, np.zeros(round(8000 * (MAX_SECONDS + 0.1))), 8000, format="FLAC")
    assert f"longer than the {MAX_SECONDS:g} s" in refused(path)
    sf.write(path, np.zeros(1000), 8000, format="WAV")
    assert "0.12 s" in refused(path) or "0.13 s" in refused(path)
    sf.write(path, np.zeros((8000, 9)), 8000, format="WAV")
    assert "9 channels" in refused(path)
    one = path.read_bytes()
    path.write_bytes(one + one)
    assert "joined" in refused(path)


def test_a_small_file_that_unfolds_to_hours_is_left_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three minutes of silence are some kilobytes of FLAC; reading them whole is never begun."""
    path = tmp_path / "upload"
    sf.write(path, np.zeros(8000 * 180), 8000, format="FLAC")
    monkeypatch.setattr(uploads, "read_audio", lambda path: pytest.fail("was read whole"))
    with pytest.raises(InputError, match="longer than"):
        read_sound(path)


def video(path: Path, seconds: float, sound: bool = True) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=RATE) if sound else None
        for _ in range(round(25 * seconds)):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            samples = tone_in_noise(seconds).astype(np.float32)[None]
            block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            block.rate = RATE
            container.mux(audio.encode(block))
            container.mux(audio.encode())


def test_sound_of_a_video_is_read_within_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video(tmp_path / "upload", 0.6)
    source = read_sound(tmp_path / "upload")
    assert len(source.samples) / source.sample_rate == pytest.approx(
        0.6, abs=0.15
    )  # a frame of AAC more at each end
    check_pictures(tmp_path / "upload")
    monkeypatch.setattr(uploads, "MAX_VIDEO_FRAMES", 10)
    with pytest.raises(InputError, match="more than 10 frames"):
        check_pictures(tmp_path / "upload")
    monkeypatch.setattr(uploads, "MAX_SECONDS", 0.5)
    with pytest.raises(InputError, match="longer than"):
        read_sound(tmp_path / "upload")


def test_videos_without_sound_or_lips_are_told_of_without_a_path(tmp_path: Path) -> None:
    video(tmp_path / "upload", 0.4, sound=False)
    assert "has no sound track" in refused(tmp_path / "upload")
    sf.write(tmp_path / "sound", tone_in_noise(0.3), RATE, format="WAV")
    with pytest.raises(InputError, match="needs lips"):
        run_job(Request(tmp_path / "sound", "av-vae"))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/srv/tmp/avse-demo-x1/tmpab: is empty", "the recording: is empty"),
        ("open '/usr/lib/python3/dist packages' failed", "open 'dist packages' failed"),
        ("/home/user/.cache/weights.bin is damaged; see /var/log/x.log", "weights.bin is damaged; see x.log"),
        ("0.5 dB/s and speech/noise", "0.5 dB/s and speech/noise"),
    ],
)
def test_messages_name_no_folder(said: str, shown: str) -> None:
    assert without_paths(said, Path("/srv/tmp/avse-demo-x1/tmpab")) == shown
