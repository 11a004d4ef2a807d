"""Images of lips in files: our own .npz, arrays in .npy and .npz, and the .mat files of NTCD-TIMIT."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avse.data.arrays import check_declared, read_npy, read_npz
from avse.data.errors import InputError
from avse.data.files import atomic_path, check_source
from avse.data.lips import Lips, Reason, read_lips
from avse.data.lips.crop import SIDE
from avse.data.lips.lips import frame_index

ARRAY_SUFFIXES = (".npz", ".npy", ".mat")
LipsSource = str | os.PathLike[str] | NDArray[Any] | Lips
_FIELDS = ("images", "times", "reasons", "fps")
_PIXELS = SIDE * SIDE


def save_lips(path: str | os.PathLike[str], lips: Lips) -> None:
    """Write lips to an .npz file, which `load_lips_array` reads back as they were.

    Raises:
        InputError: another suffix, or the path cannot be written.
    """
    if Path(path).suffix.lower() != ".npz":
        raise InputError(f"{path}: lips are saved as .npz; let the name end so")
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **{name: getattr(lips, name) for name in _FIELDS})


def save_ntcd_timit_lips(path: str | os.PathLike[str], lips: Lips, fps: float = 30000 / 1001) -> None:
    """Write lips as a .mat file of NTCD-TIMIT, which `load_lips_array` reads.

    Such a file has no time stamps and marks no video frame as bad. One image every 1 / fps seconds, from 0 to
    the last time of the lips, is interpolated between its two neighbours: c = DCT(image^T), orthonormal.

    Args:
        path: of the file, which ends in .mat.
        lips: T_v images; none is left out.
        fps: video frames per second to write; by default that of NTCD-TIMIT.

    Raises:
        InputError: another suffix, `fps` is not positive, h5py is missing, or the path cannot be written.
    """
    if Path(path).suffix.lower() != ".mat":
        raise InputError(f"{path}: lips of NTCD-TIMIT are .mat files; let the name end so")
    if not 0 < fps < np.inf:
        raise InputError(f"{fps} video frames per second; give a positive number")
    from scipy.fft import dctn

    h5py = _h5py(path)
    place = frame_index(lips, np.arange(max(0.0, lips.times[-1]) * fps + 1e-6) / fps).place
    before, share = np.floor(place).astype(int), (place % 1)[:, None, None]
    images = (1 - share) * lips.images[before] + share * lips.images[np.ceil(place).astype(int)]
    coefficients = dctn(images.swapaxes(1, 2), axes=(1, 2), norm="ortho").reshape(-1, _PIXELS)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as content:
        content["lips"] = coefficients


def load_lips_array(path: str | os.PathLike[str], fps: float | None = None) -> Lips:
    """Read images of lips that are cut out already.

    - .npz of `save_lips`: as it was saved, with its time stamps.
    - .npy, or .npz with one array: (T_v, 67, 67), as `lips_from_array` takes it.
    - .mat of NTCD-TIMIT (MATLAB 7.3): (T_v, 4489) orthonormal 2-D DCT coefficients of images of 0 to 255,
      stored by columns.

    Args:
        path: of the file.
        fps: video frames per second; the first one is at 0 s. Only the files of `save_lips` do without.

    Raises:
        InputError: the file is missing, of another kind or damaged, or declares more than 1 GiB of numbers;
            its array has another shape or range; or `fps` is missing or not positive.
    """
    path = Path(path)
    check_source(path, "a .npy, .npz or .mat file of lips, or a video")
    suffix = path.suffix.lower()
    if suffix == ".mat":
        return lips_from_array(_decoded(_coefficients(path), path), fps, str(path))
    if suffix not in (".npy", ".npz"):
        raise InputError(f"{path}: unknown kind of lips; give a .npy, .npz or .mat file, or a video")
    arrays = {"": read_npy(path)} if suffix == ".npy" else read_npz(path)
    if set(_FIELDS) <= set(arrays):
        return _own(arrays, path)
    if len(arrays) != 1:
        raise InputError(f"{path}: holds {len(arrays)} arrays; save the lips alone, (T_v, {SIDE}, {SIDE})")
    return lips_from_array(next(iter(arrays.values())), fps, str(path))


def lips_from(source: LipsSource, fps: float | None = None, track: int | None = None) -> Lips:
    """The lips in whatever holds them.

    Args:
        source: lips, an array of them, a .npz, .npy or .mat file of them, or a video of a speaker.
        fps: video frames per second of an array that comes without times.
        track: number of the sound track of a video, see `avse.data.lips.read_lips`.

    Raises:
        InputError: see `lips_from_array`, `load_lips_array` and `avse.data.lips.read_lips`.
    """
    if isinstance(source, Lips):
        return source
    if isinstance(source, np.ndarray):
        return lips_from_array(source, fps)
    if Path(source).suffix.lower() in ARRAY_SUFFIXES:
        return load_lips_array(source, fps)
    return read_lips(source, track)


def lips_from_array(array: NDArray[Any], fps: float | None, name: str = "lips") -> Lips:
    """Images that are cut out already, one every 1 / fps seconds from 0 on, all of them valid.

    Args:
        array: (T_v, 67, 67), T_v >= 1; integers from 0 to 255, or floats in [0, 255] or, if none exceeds 1,
            in [0, 1], which are rounded to the nearest of 256 levels.
        fps: video frames per second.
        name: what an error calls the array.

    Raises:
        InputError: another shape, type or range, or `fps` is missing or not positive.
    """
    if array.ndim != 3 or array.shape[1:] != (SIDE, SIDE) or not len(array):
        raise InputError(f"{name}: an array of shape {array.shape}; lips are (T_v, {SIDE}, {SIDE})")
    if array.dtype.kind not in "uif":
        raise InputError(f"{name}: an array of {array.dtype}; lips are grey levels from 0 to 255")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):
        raise InputError(f"{name}: grey levels from {low:.4g} to {high:.4g}; scale them to 0 ... 255 or 1")
    if fps is None or not 0 < fps < np.inf:
        raise InputError(
            f"{name}: how many video frames per second is not known; give fps, a positive number"
        )
    scale = 255 if array.dtype.kind == "f" and high <= 1 else 1
    images = np.round(array * scale).astype(np.uint8)
    return Lips(images, np.arange(len(images)) / fps, np.zeros(len(images), np.uint8), float(fps))


def _own(arrays: dict[str, NDArray[Any]], path: Path) -> Lips:
    images, times, reasons, rate = (arrays[name] for name in _FIELDS)
    try:
        if not np.isin(reasons, list(Reason)).all():
            raise InputError("unknown reasons")
        return Lips(images, times.astype(np.float64), reasons.astype(np.uint8), float(rate))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}; save the lips again with save_lips") from error


def _h5py(path: str | os.PathLike[str]) -> Any:
    """The module that reads and writes HDF5, for a file."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: .mat files need h5py; pip install 'avse[video]'") from error
    return h5py


def _coefficients(path: Path) -> NDArray[np.float64]:
    """The only numeric data set (T_v, 4489) of a MATLAB 7.3 file."""
    h5py = _h5py(path)
    found: list[NDArray[np.float64]] = []

    def collect(_: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
            return
        if item.shape is not None and item.shape[1:] == (_PIXELS,):
            check_declared(item.shape, np.dtype(np.float64), path)
            if not found:  # of several, none is read but the first
                found.append(np.asarray(item, np.float64))
            else:
                found.append(np.zeros((0, _PIXELS)))

    try:
        with path.open("rb") as start:
            old = start.read(10) == b"MATLAB 5.0"
        if not old:
            with h5py.File(path) as content:
                content.visititems(collect)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError, OverflowError) as error:
        raise InputError(f"{path}: is no whole .mat file of version 7.3; copy it again") from error
    if old:
        raise InputError(f"{path}: is of an old version of .mat; save it with -v7.3, or as .npy")
    if len(found) != 1 or not len(found[0]):
        raise InputError(
            f"{path}: holds {len(found)} data sets of shape (T_v, {_PIXELS}), not one; "
            "give a lips file of NTCD-TIMIT"
        )
    return found[0]


def _decoded(coefficients: NDArray[np.float64], path: Path) -> NDArray[np.uint8]:
    """Images (T_v, 67, 67) of orthonormal 2-D DCT coefficients (T_v, 4489), columns first."""
    from scipy.fft import idctn

    images = idctn(coefficients.reshape(-1, SIDE, SIDE), axes=(1, 2), norm="ortho").swapaxes(1, 2)
    if not (images.min() > -1 and images.max() < 256):
        raise InputError(f"{path}: its DCT gives levels outside 0 to 255; give a lips file of NTCD-TIMIT")
    return np.round(images).clip(0, 255).astype(np.uint8)
