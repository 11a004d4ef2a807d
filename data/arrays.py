"""Arrays in .npy and .npz files, whose declared sizes are checked before their data are read.

A file of a few megabytes can declare, or unfold to, any number of gigabytes.
"""

import tokenize
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from avse.data.errors import InputError

LARGEST_BYTES = 2**30
"""Of all arrays of a file together: two hours of lips as grey levels of one byte at 30 a second."""
MOST_ARRAYS = 64

_DAMAGE = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
    OverflowError,
    RuntimeError,  # an encrypted or unknown zip
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy's header parser, zipfile and zlib raise over a damaged file."""


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file.

    Raises:
        InputError: the file is damaged, holds objects, or declares more than `LARGEST_BYTES`.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path, LARGEST_BYTES)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path}: is no whole .npy file of numbers; write it again") from error


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name.

    Raises:
        InputError: the file is damaged, holds objects or more than `MOST_ARRAYS` arrays, or declares more
            than `LARGEST_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) > MOST_ARRAYS:
                raise InputError(f"{path}: holds {len(names)} arrays, more than {MOST_ARRAYS}; save fewer")
            left = LARGEST_BYTES
            arrays: dict[str, NDArray[Any]] = {}
            for name in names:
                with archive.open(name) as file:
                    array = _read(file, path, left)
                left -= array.nbytes
                arrays[name.removesuffix(".npy")] = array
            return arrays
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path}: is no whole .npz file of numbers; write it again") from error


def check_declared(
    shape: tuple[int, ...], dtype: np.dtype[Any], path: Path, limit: int = LARGEST_BYTES
) -> int:
    """The bytes of an array of a shape and type.

    Raises:
        InputError: they are more than the limit.
    """
    size = prod(shape) * dtype.itemsize
    if size > limit:
        raise InputError(
            f"{path}: declares {size / 2**20:.0f} MiB of numbers, more than {LARGEST_BYTES >> 20} MiB in one "
            "file; cut the recording into parts"
        )
    return size


def _read(file: IO[bytes], path: Path, limit: int) -> NDArray[Any]:
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version}")
    if dtype.hasobject or any(length < 0 for length in shape):
        raise ValueError(f"{dtype} of shape {shape}")
    size = check_declared(shape, dtype, path, limit)
    content = file.read(size)
    if len(content) != size:
        raise ValueError(f"{len(content)} of {size} bytes")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if fortran else "C").copy()
