"""The transform: exact reconstruction, and frames where they are said to be."""

import math

import pytest
import torch

from avse.data.errors import InputError
from avse.data.stft import STFT

SETTINGS = [(1024, 533), (1024, 256), (64, 32), (64, 1), (64, 63), (65, 20), (2, 1), (33, 32), (400, 160)]


@pytest.mark.parametrize(("window", "hop"), SETTINGS)
@pytest.mark.parametrize("length", [1, 2, 31, 63, 64, 65, 1000, 1024, 5333])
def test_reconstruction(window: int, hop: int, length: int, generator: torch.Generator) -> None:
    """In float64 to 1e-6 at every length, shorter than a window too."""
    stft = STFT(window, hop)
    x = torch.randn(2, length, generator=generator, dtype=torch.float64)
    spectrum = stft.analysis(x)
    assert spectrum.shape == (2, stft.frames(length), stft.bins)
    assert spectrum.dtype == torch.complex128
    torch.testing.assert_close(stft.synthesis(spectrum, length), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("window", "hop"), [(1024, 533), (64, 32), (65, 20)])
def test_analysis_is_the_formula(window: int, hop: int, generator: torch.Generator) -> None:
    """X_nf = sum_t w(t) x(n hop + t - M / 2) exp(-2 i pi f t / M), term by term."""
    length = 3 * window + 5
    x = torch.randn(length, generator=generator, dtype=torch.float64)
    stft = STFT(window, hop)
    spectrum = stft.analysis(x)
    t = torch.arange(window, dtype=torch.float64)
    w = torch.sin(torch.pi * (t + 0.5) / window)
    f = torch.arange(stft.bins, dtype=torch.float64)
    for n in (0, 1, stft.frames(length) - 1):
        where = n * hop + t.long() - window // 2
        inside = (where >= 0) & (where < length)
        samples = torch.where(inside, x[where.clamp(0, length - 1)], 0.0)
        angle = -2 * torch.pi * f[:, None] * t / window
        truth = (torch.polar(torch.ones_like(angle), angle) * (w * samples)).sum(-1)
        torch.testing.assert_close(spectrum[n], truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("window", "hop"), [(1024, 533), (1024, 256), (64, 32), (65, 20)])
def test_frames_are_centred_at_multiples_of_the_hop(window: int, hop: int) -> None:
    """An impulse at n hop is loudest in frame n and seen by it at the middle of the window."""
    stft = STFT(window, hop)
    for n in (0, 3):
        x = torch.zeros(6 * window, dtype=torch.float64)
        x[n * hop] = 1
        spectrum = stft.analysis(x)
        assert int(spectrum.abs().square().sum(-1).argmax()) == n
        peak = math.sin(math.pi * (window // 2 + 0.5) / window)
        torch.testing.assert_close(spectrum[n].abs(), torch.full((stft.bins,), peak, dtype=torch.float64))
    times = stft.frame_times(4)
    torch.testing.assert_close(times, torch.arange(4, dtype=torch.float64) * hop / 16000)
    assert stft.frame_rate == pytest.approx(16000 / hop)


def test_a_sinusoid_is_in_its_bin() -> None:
    stft = STFT(1024, 256, 16000)
    t = torch.arange(16000, dtype=torch.float64) / 16000
    power = stft.analysis(torch.sin(2 * torch.pi * 1000 * t)).abs().square()[5:-5]
    assert (power.argmax(-1) == 64).all()  # 1000 Hz / (16000 / 1024)
    assert (power[:, 60:69].sum(-1) / power.sum(-1)).min() > 0.999


@pytest.mark.parametrize("length", [1, 255, 256, 257, 10_000])
def test_frames_cover_the_signal(length: int) -> None:
    stft = STFT(1024, 256)
    assert stft.frames(length) == math.ceil(length / 256) + 1
    assert (stft.frames(length) - 1) * 256 >= length


def test_leading_dimensions_and_precision() -> None:
    stft, x = STFT(64, 32), torch.randn(2, 3, 500)
    spectrum = stft.analysis(x)
    assert spectrum.shape == (2, 3, stft.frames(500), 33)
    assert spectrum.dtype == torch.complex64
    torch.testing.assert_close(spectrum[1, 2], stft.analysis(x[1, 2]))
    torch.testing.assert_close(stft.synthesis(spectrum, 500), x, rtol=0, atol=1e-5)
    assert stft.analysis(x[0, 0]).shape == (stft.frames(500), 33)


@pytest.mark.parametrize(("window", "hop"), [(64, 0), (64, 64), (64, 65), (1, 1), (0, 1), (64, -3)])
def test_settings_that_cannot_reconstruct_are_refused(window: int, hop: int) -> None:
    with pytest.raises(InputError, match="hop"):
        STFT(window, hop)


def test_bad_rate_and_wrong_length_are_refused() -> None:
    with pytest.raises(InputError, match="rate"):
        STFT(64, 32, 0)
    stft = STFT(64, 32)
    with pytest.raises(InputError, match="do not cover"):
        stft.synthesis(stft.analysis(torch.zeros(100)), 200)
