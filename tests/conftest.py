"""Fixtures of all tests. Random draws come from explicit seeds; nothing is left in the home folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch

from avse.data.front_end import FrontEnd
from avse.data.stft import STFT
from avse.zoo.pair import PairConfig, SpeechPair

ROOT = Path(__file__).parent.parent

torch.set_num_threads(1)  # tests are small: a second thread costs more than it gives


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test starts from one state of the global generators, and leaves Pyro's parameter store empty."""
    pyro.set_rng_seed(0)
    yield
    left = list(pyro.get_param_store())
    pyro.clear_param_store()
    assert not left, f"parameters in Pyro's global store: {left}"


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tiny_config() -> PairConfig:
    """33 bins, 3 latents, 8 hidden units."""
    return PairConfig("a-vae", {"latent_size": 3, "encoder": [8], "decoder": [8]}, FrontEnd(STFT(64, 32)))


@pytest.fixture
def tiny_pair(tiny_config: PairConfig) -> SpeechPair:
    """An untrained pair, the same in every test."""
    return SpeechPair(tiny_config, "# A tiny pair\n")


@pytest.fixture(scope="session")
def real_recordings() -> Path:
    """Folder of the real recordings, for tests that are marked `data`."""
    folder = Path(os.environ.get("AVSE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "splits.csv").is_file():
        pytest.skip(f"no real recordings in {folder}: set AVSE_DATA to the folder that holds splits.csv")
    return folder
