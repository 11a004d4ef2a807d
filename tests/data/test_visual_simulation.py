"""Simulated recordings with lips: frames and lips stay aligned, and the shares of other lips are kept."""

from dataclasses import replace

import pytest
import torch

from avse.data.corpora.base import Utterance
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.simulation import MixtureSimulator
from avse.data.stft import STFT
from avse.data.synthetic_noise import RandomNoise
from avse.data.visual_simulation import Clip, OtherLips, VisualBatches, VisualSimulationDataModule

STFT_16K = STFT(hop_length=256)
FRONT_END = FrontEnd(STFT_16K, "rms", high_pass=70.0)
SIMULATOR = MixtureSimulator(
    FRONT_END, seconds=1.0, low=60.0, high=60.0, nearly_clean=0.0, pause=0.0, deviation=0.0, voices=2, pool=2,
    reuse=4, noise=RandomNoise({"coloured": 1.0}),
)  # fmt: skip
OWN_ONLY = OtherLips(0.0, 0.0, 0.0, 0.0, 0.0)
SECONDS = 2.5


def clip(speaker: str, seed: int, seconds: float = SECONDS) -> Clip:
    """Noise whose level follows a random course, which the lips show; then speaker and validity."""
    generator = torch.Generator().manual_seed(seed)
    length = round(seconds * 16000)
    frames = STFT_16K.frames(length)
    steps = torch.rand(frames // 8 + 2, generator=generator)
    course = steps.repeat_interleave(8)[:frames]
    envelope = torch.nn.functional.interpolate(course[None, None], length, mode="linear")[0, 0]
    samples = (0.05 + envelope) * torch.randn(length, generator=generator)
    who = torch.full((frames,), float(speaker == "one"))
    return Clip(speaker, samples / samples.square().mean().sqrt(), torch.stack([course, who, who + 1], -1))


def batches(other: OtherLips = OWN_ONLY, size: int = 4, clips: list[Clip] | None = None) -> VisualBatches:
    speech = (0.1 * 32767 * torch.randn(40_000, generator=torch.Generator().manual_seed(9))).to(torch.int16)
    clips = clips or [clip("one", 1), clip("two", 2), clip("two", 3), clip("two", 4)]
    return VisualBatches(SIMULATOR, speech, clips, size, 0, other)


def test_lips_are_those_of_the_frames_of_the_piece():
    """The level of a frame correlates with what the lips show there, more than with what they show later."""
    batch = batches(size=16)[0]
    level = batch["clean"].mean(-1).sqrt()
    shown = batch["visual"][..., 0]
    assert shown.shape == level.shape

    def correlation(shift: int) -> float:
        pairs = torch.stack([level, shown.roll(shift, -1)])[..., 12:-12]
        centred = pairs - pairs.mean(-1, keepdim=True)
        a, b = centred / centred.norm(dim=-1, keepdim=True)
        return float((a * b).sum(-1).mean())

    assert correlation(0) > 0.9
    assert correlation(0) > max(correlation(-6), correlation(6)) + 0.1


def test_speakers_are_drawn_equally_often():
    """One clip of "one", three of "two". 64 draws: outside 16..48 at p < 1e-4."""
    who = torch.cat([batches(size=16)[k]["visual"][:, 0, 1] for k in range(4)])
    assert 16 < int(who.sum()) < 48


@pytest.mark.parametrize("kind", ["same_speaker", "any_speaker", "shifted", "reversed", "hidden"])
def test_other_lips(kind):
    own, other = batches()[0], batches(replace(OWN_ONLY, **{kind: 1.0}))[0]
    if kind == "hidden":
        assert not other["visual"].any()
    if kind == "reversed":
        torch.testing.assert_close(other["visual"], _flipped_pieces())
    if kind == "shifted":
        assert (other["visual"][..., 2] > 0).all()
    level, shown = other["clean"].mean(-1).sqrt(), other["visual"][..., 0]
    right = own["visual"][..., 0]
    assert _correlation(own["clean"].mean(-1).sqrt(), right) > 0.85
    assert _correlation(level, shown) < 0.6  # negative control


def _flipped_pieces() -> torch.Tensor:
    """The first draws of a recording, its speaker, clip and place, do not depend on which lips are shown."""
    data = batches(replace(OWN_ONLY, reversed=1.0))
    generator = data._generator(1)
    shown = []
    for _ in range(data.size):
        _, own = data._piece(data._clip(data._speaker(generator), generator), generator)
        torch.multinomial(torch.ones(6), 1, generator=generator)
        shown.append(own.flip(0))
    return torch.stack(shown)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
    return float(((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(1e-9)).mean())


def test_a_short_clip_is_followed_by_silence_without_lips():
    short = clip("one", 5, seconds=0.5)
    visual = batches(clips=[short])[0]["visual"]
    frames = len(short.visual)
    assert (visual[:, :frames, 2] > 0).all()
    assert not visual[:, frames:].any()


def test_batches_depend_on_seed_and_number_alone():
    first, again = batches(OtherLips())[3], batches(OtherLips())[3]
    for name, part in first.items():
        torch.testing.assert_close(part, again[name])
    assert not torch.allclose(first["power"], batches(OtherLips())[4]["power"])


class Unseen:
    """A corpus without a video."""

    name = "unseen"

    def utterances(self, split):
        return [Utterance(split, "one", split, lambda: (clip("one", 1).samples.numpy(), 16000))]


def test_a_corpus_without_video_is_refused(tmp_path):
    from avse.data.lips.shape_front_end import LipShapeFrontEnd

    data = VisualSimulationDataModule([Unseen()], FRONT_END, LipShapeFrontEnd(), cache=tmp_path)
    with pytest.raises(InputError, match="no utterance with a video in the train split"):
        data.setup("fit")
