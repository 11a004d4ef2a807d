"""Computed noise: unit power, explicit generators, and what each family claims of its signals."""

import pytest
import torch

from avse.data.synthetic_noise import (
    FAMILIES,
    ModulatedSum,
    RandomNoise,
    babble,
    coloured,
    random_response,
    reverberated,
    smooth_process,
    unit_power,
)

RATE = 16000
LENGTH = RATE  # one second


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_have_unit_power_and_follow_the_generator(name):
    signals = FAMILIES[name](3, LENGTH, RATE, generator(1))
    assert signals.shape == (3, LENGTH)
    assert torch.isfinite(signals).all()
    powers = signals.square().mean(-1)
    # Bursts may be absent from a short signal, which is then silent.
    torch.testing.assert_close(powers[powers > 0], torch.ones_like(powers[powers > 0]), rtol=1e-3, atol=0)
    assert (powers > 0).any()
    torch.testing.assert_close(signals, FAMILIES[name](3, LENGTH, RATE, generator(1)))
    assert not torch.allclose(signals, FAMILIES[name](3, LENGTH, RATE, generator(2)))


def test_no_family_moves_the_global_generator():
    state = torch.random.get_rng_state()
    RandomNoise()(2, LENGTH, RATE, generator(), torch.randn(2, 4, LENGTH, generator=generator(3)))
    assert torch.equal(torch.random.get_rng_state(), state)


def level_spread(signals: torch.Tensor) -> torch.Tensor:
    """Standard deviation over time of the level of 50 ms in dB, (B,)."""
    blocks = signals.reshape(len(signals), -1, RATE // 20).square().mean(-1)
    return (10 * torch.log10(blocks + 1e-9)).std(-1)


def test_coloured_noise_is_stationary_and_modulated_noise_is_not():
    seconds = 4
    still = level_spread(coloured(16, seconds * RATE, RATE, generator()))
    moving = level_spread(ModulatedSum()(16, seconds * RATE, RATE, generator()))
    assert still.median() < 2.0  # dB; the level of 800 independent normal samples varies by .2 dB
    assert moving.median() > 2 * still.median()


def test_the_smooth_process_has_variance_one_and_its_rate():
    slow, fast = (
        smooth_process(200, 4 * RATE, RATE, torch.full((200, 1), rate), generator(5)) for rate in (1.0, 20.0)
    )
    # 200 x 81 nearly independent values: the standard error of the variance is about .02.
    assert abs(float(fast.var()) - 1) < 0.1
    crossings = [(process[:, 1:] * process[:, :-1] < 0).float().sum(-1).mean() for process in (slow, fast)]
    assert crossings[1] > 10 * crossings[0]


def test_responses_differ_and_stay_in_range():
    responses = 20 * torch.log10(random_response(64, LENGTH, RATE, generator()))
    assert responses.shape == (64, LENGTH // 2 + 1)
    assert float(responses.min()) >= -80.1
    assert float(responses.std(0).median()) > 3  # dB between signals


def test_a_room_keeps_the_power_and_smears_an_impulse():
    impulse = torch.zeros(4, LENGTH)
    impulse[:, 0] = 1
    heard = reverberated(impulse, RATE, generator(2))
    torch.testing.assert_close(heard.square().mean(-1), torch.ones(4))
    early, late = heard[:, RATE // 100 : RATE // 5].square().mean(-1), heard[:, RATE // 2 :].square().mean(-1)
    assert (early > 0).all()
    assert (late < early).all()  # it decays


def test_rooms_decay_by_60_db_in_their_reverberation_time():
    """Slopes of 60 dB over 0.1 to 1.2 s, that is 50 to 600 dB/s, by a line through levels of 10 ms."""
    impulses = torch.zeros(64, LENGTH)
    impulses[:, 0] = 1
    blocks = reverberated(impulses, RATE, generator(3)).reshape(64, -1, RATE // 100).square().mean(-1)
    level = 10 * torch.log10(blocks[:, 1:11])  # from 10 ms, after the direct sound, to 110 ms
    time = torch.arange(10) / 100
    centred = time - time.mean()
    slope = -(level * centred).sum(-1) / centred.square().sum()
    assert float(slope.min()) > 40
    assert float(slope.median()) == pytest.approx(60 / 0.65, rel=0.35)


def test_babble_is_made_of_the_voices():
    voices = torch.zeros(2, 6, LENGTH)
    time = torch.arange(LENGTH) / RATE
    for number in range(6):
        voices[:, number] = torch.sin(2 * torch.pi * 200 * (number + 1) * time)
    power = torch.fft.rfft(babble(voices, RATE, generator())).abs().square()
    own = power[:, [200 * (number + 1) for number in range(6)]].sum(-1)
    assert (own / power.sum(-1) > 0.99).all()


def test_noise_without_voices_has_no_babble_and_unknown_changes_are_heard():
    steady = RandomNoise({"coloured": 1.0}, changes=0.0)
    changing = RandomNoise({"coloured": 1.0}, changes=1.0)
    assert level_spread(steady(32, 4 * RATE, RATE, generator())).median() < 2
    assert level_spread(changing(32, 4 * RATE, RATE, generator())).median() > 2
    torch.testing.assert_close(
        RandomNoise()(2, LENGTH, RATE, generator()).square().mean(-1), torch.ones(2), rtol=1e-3, atol=0
    )


def test_silence_stays_silent():
    assert torch.equal(unit_power(torch.zeros(2, 10)), torch.zeros(2, 10))
