"""Resampling piece by piece: tones, aliases, counts, pieces and the delay."""

import numpy as np
import pytest
from numpy.typing import NDArray

from avse.data.audio import resample
from avse.data.resampling import Resampler

RATES = [(16000, 48000), (48000, 16000), (44100, 16000), (16000, 44100), (8000, 16000), (16000, 11025)]


def tones(frequencies: list[float], rate: int, count: int) -> NDArray[np.float64]:
    time = np.arange(count)[:, None] / rate
    return np.sin(2 * np.pi * np.array(frequencies) * time + np.array(frequencies)).sum(1, keepdims=True)


def resampled(x: NDArray[np.float32], rate_in: int, rate_out: int, size: int) -> NDArray[np.float32]:
    resampler = Resampler(rate_in, rate_out, x.shape[1])
    parts = [resampler(x[begin : begin + size]) for begin in range(0, len(x), size)]
    return np.concatenate([*parts, resampler(x[:0], last=True)])


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_tones_keep_their_place_and_amplitude(rate_in: int, rate_out: int) -> None:
    frequencies = [100.0, 1000.0, 0.42 * min(rate_in, rate_out)]
    found = resampled(tones(frequencies, rate_in, rate_in // 2).astype(np.float32), rate_in, rate_out, 777)
    inner = slice(rate_out // 20, -rate_out // 20)
    error = found[inner] - tones(frequencies, rate_out, len(found))[inner]
    assert 10 * np.log10(np.square(error).mean() / 1.5) < -80


def test_what_is_above_the_new_band_is_gone() -> None:
    found = resampled(tones([9500.0], 48000, 24000).astype(np.float32), 48000, 16000, 1000)
    assert 10 * np.log10(np.square(found[500:-500]).mean() / 0.5) < -80


@pytest.mark.parametrize(("rate_in", "rate_out"), [*RATES, (16000, 16000)])
@pytest.mark.parametrize("count", [0, 1, 37, 2000])
def test_counts_are_those_of_the_whole_and_pieces_do_not_matter(
    rate_in: int, rate_out: int, count: int
) -> None:
    x = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
    whole = resampled(x, rate_in, rate_out, max(count, 1))
    assert whole.shape == (len(resample(x, rate_in, rate_out)), 2)
    np.testing.assert_allclose(resampled(x, rate_in, rate_out, 13), whole, atol=1e-6)


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_no_more_is_held_back_than_the_filter_reaches(rate_in: int, rate_out: int) -> None:
    resampler = Resampler(rate_in, rate_out, 1)
    given, back = 0, 0
    for _ in range(50):
        back += len(resampler(np.zeros((rate_in // 100, 1), np.float32)))
        given += rate_in // 100
        assert given / rate_in - back / rate_out <= resampler.reach / rate_in + 1 / rate_out
    assert resampler.reach / rate_in <= 0.0041
