"""The common level and the high-pass of recordings."""

import pytest
import torch

from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT

SHORT = STFT(64, 32)


def test_rms_level_gives_spectra_of_mean_power_one() -> None:
    x = 7 * torch.randn(2, 5000, dtype=torch.float64)
    values, scale = FrontEnd(SHORT).analysis(x)
    torch.testing.assert_close(values.abs().square().mean((-2, -1)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(values, SHORT.analysis(x * scale))


def test_peak_level_divides_by_the_largest_magnitude_of_either_sign() -> None:
    x = torch.tensor([[0.1, -0.5, 0.2]])
    values, scale = FrontEnd(SHORT, "peak").analysis(x)
    assert scale.item() == 2
    torch.testing.assert_close(values, SHORT.analysis(2 * x))


@pytest.mark.parametrize("level", ["rms", "peak"])
def test_silence_keeps_its_level_beside_a_loud_channel(level: str) -> None:
    x = torch.stack([torch.zeros(100), torch.ones(100)])
    values, scale = FrontEnd(SHORT, level).analysis(x)
    assert scale[0] == 1
    assert (values[0] == 0).all()
    assert values.isfinite().all()


def test_high_pass_takes_hum_and_leaves_speech() -> None:
    """-3 dB at the frequency, -24 dB an octave below, and none three octaves above."""
    response = 20 * torch.log10(FrontEnd(STFT(1024, 256), "rms", 125.0).response())
    bins_a_hertz = 1024 / 16000
    assert response[round(125 * bins_a_hertz)].item() == pytest.approx(-3.0, abs=0.1)
    assert response[round(62.5 * bins_a_hertz)].item() == pytest.approx(-24.1, abs=0.2)
    assert response[round(1000 * bins_a_hertz)].item() == pytest.approx(0.0, abs=1e-3)
    assert (FrontEnd(STFT(1024, 256)).response() == 1).all()


def test_level_is_taken_after_the_high_pass() -> None:
    """Hum of any strength does not turn the speech down."""
    t = torch.arange(16000, dtype=torch.float64) / 16000
    voice, hum = torch.sin(2 * torch.pi * 1000 * t), 3 * torch.sin(2 * torch.pi * 31.25 * t)
    front_end = FrontEnd(STFT(1024, 256), "rms", 200.0)
    plain = front_end.analysis(voice).scale
    torch.testing.assert_close(plain, front_end.analysis(voice + hum).scale, rtol=0.02, atol=0)
    assert FrontEnd(STFT(1024, 256)).analysis(voice + hum).scale < plain / 2


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(InputError, match="rms, peak"):
        FrontEnd(level="loud")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="negative"):
        FrontEnd(high_pass=-1.0)


def test_what_the_high_pass_rejects_and_what_it_lets_through_are_the_recording() -> None:
    x = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    front_end = FrontEnd(STFT(1024, 256), "rms", 70.0)
    values, scale = front_end.analysis(x)
    whole = front_end.stft.analysis(x) * scale.unsqueeze(-1)
    torch.testing.assert_close(values + front_end.rejected() * values, whole, rtol=1e-3, atol=1e-4)
