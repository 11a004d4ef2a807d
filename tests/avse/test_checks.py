"""Values that users give: what is accepted, and one clear error for the rest."""

from typing import Any

import numpy as np
import pytest
import torch

from avse.checks import MAX_SEED, checked_count, checked_device, checked_seed
from avse.data.errors import InputError


@pytest.mark.parametrize(
    ("value", "seed"),
    [
        (0, 0),
        (3, 3),
        (MAX_SEED, MAX_SEED),
        (np.int64(7), 7),
        (np.uint8(255), 255),
        (3.0, 3),
        (np.float32(4.0), 4),
        (torch.tensor(5), 5),
    ],
)
def test_whole_numbers_are_seeds(value: Any, seed: int) -> None:
    found = checked_seed(value)
    assert type(found) is int
    assert found == seed
    torch.Generator().manual_seed(found)


@pytest.mark.parametrize(
    "value",
    [-1, -1.0, 2**63, 99999999999999999999, 0.5, float("nan"), float("inf"), "3", None, True, np.True_, [3]],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="seed"):
        checked_seed(value)


@pytest.mark.parametrize("value", [0, -3, 1.5, None, "many", True])
def test_counts_are_at_least_one(value: Any) -> None:
    assert checked_count(np.int32(4), "epochs") == 4
    with pytest.raises(InputError, match="epochs"):
        checked_count(value, "epochs")


@pytest.mark.parametrize("name", ["foo", "gpu", "", "cpu:x", "meta", "cuda:99", "xla", None, 2.5])
def test_unknown_or_absent_devices_are_refused(name: Any) -> None:
    with pytest.raises(InputError, match="device"):
        checked_device(name)


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_the_cpu_is_always_there(name: Any) -> None:
    assert checked_device(name) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_accelerators_only_where_there_are(name: str) -> None:
    there = torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available()
    if there:
        assert checked_device(name).type == name
    else:
        with pytest.raises(InputError, match="not available here; use cpu"):
            checked_device(name)
