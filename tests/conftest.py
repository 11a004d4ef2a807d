"""Fixtures of all tests. Random draws come from explicit seeds; nothing is left in the home folder.

`AVSE_SEED_SHIFT=k` adds k to every seed that a test or the library sets in this process, through
`torch.Generator.manual_seed`, `torch.manual_seed`, `pyro.set_rng_seed` and `np.random.default_rng`.
A test that is marked `statistical` must pass under any shift but for its stated false-alarm rate:
`make test-seeds` runs those under five, slow ones as well, but for those that are marked `long`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch


def shift_seeds(shift: int) -> None:
    """Add `shift` to all seeds. It comes before the imports of `avse`, which bind these names."""
    set_torch_seed, make_numpy_generator = torch.manual_seed, np.random.default_rng

    class ShiftedGenerator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + shift)

    def default_rng(seed: Any = None) -> np.random.Generator:
        if isinstance(seed, int):
            seed += shift
        elif isinstance(seed, (list, tuple)):
            seed = [*seed, shift]
        return make_numpy_generator(seed)

    def manual_seed(seed: int) -> torch.Generator:
        return set_torch_seed(seed + shift)

    torch.Generator = ShiftedGenerator  # type: ignore[misc, assignment]
    torch.manual_seed = torch.random.manual_seed = manual_seed
    np.random.default_rng = default_rng


if int(os.environ.get("AVSE_SEED_SHIFT", "0")):
    shift_seeds(int(os.environ["AVSE_SEED_SHIFT"]))

from avse.data.front_end import FrontEnd  # noqa: E402
from avse.data.stft import STFT  # noqa: E402
from avse.zoo.pair import PairConfig, SpeechPair  # noqa: E402

ROOT = Path(__file__).parent.parent

torch.set_num_threads(1)  # tests are small: a second thread costs more than it gives


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that states a false-alarm rate, in its docstring or its module's, is marked `statistical`."""
    for item in items:
        texts = (getattr(item, "obj", None), getattr(item, "module", None))
        if any("alarm" in (text.__doc__ or "") for text in texts if text is not None):
            item.add_marker("statistical")


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test starts from one state of the global generators and an empty parameter store of Pyro."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


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
