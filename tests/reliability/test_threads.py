"""Concurrent calls: the same results as one call after the other, and no trace in global generators."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import avse
from avse.data.lips import Lips
from avse.inference.algorithm import Algorithm
from avse.inference.em.amortised import AmortisedEM
from avse.inference.em.component_mcem import ComponentwiseMCEM
from avse.inference.em.mcem import MCEM
from avse.inference.presets import PRESETS
from avse.inference.vem.vem import VEM

RATE = 16000
WORKERS = 4
CASES = [
    ("a-vae", "amortised"),
    ("a-vae", "mcem"),
    pytest.param("av-vae", "mcem-lips", marks=pytest.mark.slow),
    ("vae-mm", "mcem-mixture"),
    pytest.param("min-vae-v1", "mcem-branches", marks=pytest.mark.slow),
    pytest.param("vae-mm", "vem", marks=pytest.mark.slow),
    ("min-vae-v2", "paper-vem"),
]


def brief(name: str) -> Algorithm:
    """A preset with three iterations."""
    algorithm: Any = PRESETS[name]()
    if isinstance(algorithm, AmortisedEM):
        return replace(algorithm, iterations=3)
    if isinstance(algorithm, MCEM):
        return replace(algorithm, em=replace(algorithm.em, iterations=3))
    assert isinstance(algorithm, ComponentwiseMCEM | VEM)
    return replace(algorithm, iterations=3)


def recording() -> tuple[NDArray[np.float64], Lips]:
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (15, 67, 67), dtype=np.uint8)
    return draws.normal(0, 0.1, RATE // 4), Lips(images, np.arange(15) / 25, np.zeros(15, np.uint8), 25.0)


@pytest.mark.parametrize(("model", "algorithm"), CASES)
def test_threads_agree_with_one_call_after_the_other(model: str, algorithm: str) -> None:
    x, lips = recording()
    pair = avse.load(model)
    video = None if pair.config.lips is None else lips

    def speech(seed: int) -> NDArray[Any]:
        return avse.enhance(
            x, RATE, video=video, model=pair, algorithm=brief(algorithm), seed=seed % 2
        ).speech

    alone = [speech(seed) for seed in range(2)]
    assert np.abs(alone[0] - alone[1]).max() > 1e-4  # so that an exchange of generators would show
    with ThreadPoolExecutor(WORKERS) as pool:
        together = list(pool.map(speech, range(WORKERS)))
    for seed, found in enumerate(together):
        np.testing.assert_allclose(found, alone[seed % 2], atol=1e-5)


@pytest.mark.parametrize(("model", "algorithm"), CASES)
def test_global_generators_are_left_alone(model: str, algorithm: str) -> None:
    x, lips = recording()
    pair = avse.load(model)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    video = None if pair.config.lips is None else lips
    avse.enhance(x, RATE, video=video, model=pair, algorithm=brief(algorithm))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
