"""Checks of values that users give, made before any work is done."""

import math
import numbers
import operator
from typing import TYPE_CHECKING, Any

from avse.data.errors import InputError

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**63 - 1
"""The largest seed that a generator of torch takes as it is."""


def checked_seed(value: Any) -> int:
    """The seed as a Python int, 0 <= seed < 2^63.

    NumPy integers and floats that are whole (3.0) are accepted; booleans and texts are not.

    Raises:
        InputError: the value is not a whole number, or out of range.
    """
    seed = _whole(value)
    if seed is None or not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed {value!r}: give a whole number from 0 to {MAX_SEED}")
    return seed


def checked_count(value: Any, name: str, least: int = 1) -> int:
    """A number of things (epochs, chains, iterations) as a Python int of at least `least`.

    Raises:
        InputError: the value is not a whole number, or too small; names it by `name`.
    """
    count = _whole(value)
    if count is None or count < least:
        raise InputError(f"{name} {value!r}: give a whole number of at least {least}")
    return count


def checked_device(name: "str | torch.device") -> "torch.device":
    """The device of a name such as "cpu", "cuda", "cuda:1" or "mps", if this machine has it.

    Raises:
        InputError: torch knows no such device, or this machine (or this build of torch) has none.
    """
    import torch  # here, as the other checks do without it

    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device {name!r}: unknown; use cpu, cuda or mps") from error
    if device.type == "cpu":
        there = True
    elif device.type == "cuda":
        there = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    elif device.type == "mps":
        there = torch.backends.mps.is_available()
    else:
        raise InputError(f"device {str(name)!r}: not supported; use cpu, cuda or mps")
    if not there:
        raise InputError(f"device {str(name)!r}: not available here; use cpu")
    return device


def _whole(value: Any) -> int | None:
    """The value as an int, if it is a whole number (of any type but bool) and finite."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        pass
    if isinstance(value, numbers.Real) and math.isfinite(value) and float(value).is_integer():
        return int(float(value))
    return None
