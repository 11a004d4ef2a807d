from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.fft import dctn
from scipy.io import savemat

from avse.data.errors import InputError
from avse.data.lips import Lips, Reason
from avse.data.lips.files import load_lips_array, save_lips, save_ntcd_timit_lips
from avse.evaluation.lips_figures import contact_sheet


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 67, 67), dtype=np.uint8)


def test_saved_lips_come_back_exactly(tmp_path: Path, images: np.ndarray) -> None:
    lips = Lips(images, np.cumsum(np.random.default_rng(1).random(6)), np.arange(6, dtype=np.uint8), 29.97)
    save_lips(tmp_path / "a.npz", lips)
    again = load_lips_array(tmp_path / "a.npz")
    for name in ("images", "times", "reasons", "valid"):
        np.testing.assert_array_equal(getattr(again, name), getattr(lips, name))
    assert again.fps == lips.fps
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_arrays_of_any_range(tmp_path: Path, images: np.ndarray) -> None:
    for array in (images, images.astype(np.int64), images.astype(np.float32), images / 255):
        np.save(tmp_path / "a.npy", array)
        np.savez(tmp_path / "a.npz", array)
        for name in ("a.npy", "a.npz"):
            lips = load_lips_array(tmp_path / name, 30)
            np.testing.assert_array_equal(lips.images, images)
            np.testing.assert_allclose(lips.times, np.arange(6) / 30)
            assert lips.valid.all()


def _write_mat(path: Path, **arrays: Any) -> Path:
    """A .mat file of version 7.3 as MATLAB writes it: HDF5 behind a block of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as content:
        for name, array in arrays.items():
            content[name] = array
    with path.open("rb+") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))
    return path


def test_ntcd_timit_lips(tmp_path: Path, images: np.ndarray) -> None:
    columns_first = images.swapaxes(1, 2).astype(float)
    coefficients = dctn(columns_first, axes=(1, 2), norm="ortho").reshape(6, 4489)
    path = _write_mat(tmp_path / "a.mat", mouth=coefficients, other=np.zeros((3, 2)))
    np.testing.assert_array_equal(load_lips_array(path, 29.97).images, images)


def test_lips_saved_as_those_of_ntcd_timit_keep_place_and_time(tmp_path: Path) -> None:
    """The lower rows darken evenly: at every rate they are as dark as their time says."""
    times = np.arange(25) / 25
    images = np.zeros((25, 67, 67), np.uint8)
    images[:, 40:] = np.rint(200 - 4 * np.arange(25))[:, None, None]  # rows, not columns
    reasons = np.full(25, Reason.NO_FACE, np.uint8)
    lips = Lips(images, times, reasons, 25.0)
    for fps in (25.0, 29.97, 10.0):
        save_ntcd_timit_lips(tmp_path / "a.mat", lips, fps)
        found = load_lips_array(tmp_path / "a.mat", fps)
        assert found.valid.all()
        assert times[-1] - 1 / fps < found.times[-1] <= times[-1] + 1e-9
        assert not found.images[:, :40].any()
        expected = np.broadcast_to((200 - 100 * found.times)[:, None, None], (len(found.times), 27, 67))
        np.testing.assert_allclose(found.images[:, 40:], expected, atol=0.51)


def test_what_cannot_be_saved_as_lips_of_ntcd_timit_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    lips = Lips(images, np.arange(6) / 25, np.zeros(6, np.uint8), 25.0)
    with pytest.raises(InputError, match=r"are \.mat files"):
        save_ntcd_timit_lips(tmp_path / "a.npz", lips)
    for fps in (0.0, np.nan, np.inf):
        with pytest.raises(InputError, match="give a positive number"):
            save_ntcd_timit_lips(tmp_path / "a.mat", lips, fps)
    assert not any(tmp_path.iterdir())


def test_mistakes_are_told_in_one_line(tmp_path: Path, images: np.ndarray) -> None:
    def array(name: str, content: Any) -> Path:
        np.save(tmp_path / f"{name}.npy", content)
        return tmp_path / f"{name}.npy"

    cut = tmp_path / "cut.npz"
    save_lips(cut, Lips(images, np.arange(6.0), np.zeros(6, np.uint8), 25))
    cut.write_bytes(cut.read_bytes()[:-200])
    two = tmp_path / "two.npz"
    np.savez(two, images, images)
    unsorted = tmp_path / "unsorted.npz"
    np.savez(unsorted, images=images, times=np.zeros(6), reasons=np.zeros(6, np.uint8), fps=25)
    unknown = tmp_path / "unknown.npz"
    np.savez(unknown, images=images, times=np.arange(6.0), reasons=np.full(6, 99, np.uint8), fps=25)
    old = tmp_path / "old.mat"
    savemat(old, {"mouth": np.zeros((4489, 6))})
    older = tmp_path / "older.mat"
    savemat(older, {"mouth": np.zeros((4489, 6))}, format="4")
    text = tmp_path / "text.mat"
    text.write_text("no data")
    for path, message in (
        (tmp_path / "missing.npy", "does not exist"),
        (array("shape", images[:, :60]), r"shape \(6, 60, 67\)"),
        (array("none", images[:0]), r"shape \(0, 67, 67\)"),
        (array("range", images * 2.0), "grey levels"),
        (array("nan", np.full((1, 67, 67), np.nan)), "grey levels from nan"),
        (array("bool", images > 3), "array of bool"),
        (array("object", np.array([{}], dtype=object)), "no whole .npy"),
        (cut, "no whole .npz"),
        (two, "2 arrays"),
        (unsorted, "must increase"),
        (unknown, "unknown reasons"),
        (old, "old version of .mat; save it with -v7.3"),
        (older, "no whole .mat file of version 7.3"),
        (text, "no whole .mat"),
        (_write_mat(tmp_path / "wrong.mat", audio=np.zeros((4, 513))), "0 data sets"),
        (_write_mat(tmp_path / "loud.mat", mouth=np.full((2, 4489), 1e4)), "outside 0 to 255"),
        (tmp_path / "a.csv", "does not exist"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_lips_array(path, 25)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    for fps in (None, 0, -1.0, float("nan")):
        with pytest.raises(InputError, match="give fps"):
            load_lips_array(array("good", images), fps)
    with pytest.raises(InputError, match="let the name end so"):
        save_lips(tmp_path / "a.npy", load_lips_array(tmp_path / "good.npy", 25))


@pytest.mark.parametrize("name", ["own.npz", "one.npz", "one.npy", "plain.mat", "packed.mat"])
def test_any_damage_is_told(tmp_path: Path, images: np.ndarray, name: str) -> None:
    """Whatever NumPy, zipfile, zlib and h5py raise over a broken byte, or nothing if they do not notice."""
    path = tmp_path / name
    coefficients = dctn(images.swapaxes(1, 2).astype(float), axes=(1, 2), norm="ortho").reshape(6, 4489)
    if name == "own.npz":
        save_lips(path, Lips(images, np.arange(6.0), np.zeros(6, np.uint8), 25))
    elif name == "one.npz":
        np.savez(path, images)
    elif name == "one.npy":
        np.save(path, images)
    else:
        _write_mat(path, mouth=coefficients)
        if name == "packed.mat":
            with h5py.File(path, "a") as content:
                del content["mouth"]
                content.create_dataset("mouth", data=coefficients, compression="gzip")
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    told = []
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(3):  # near the ends, where the tables of contents are
            place = int(generator.integers(1000)) * int(generator.choice([1, -1]))
            broken[place] = generator.integers(256)
        path.write_bytes(broken)
        try:
            load_lips_array(path, 25)
        except InputError as error:
            told.append(str(error))
    assert len(told) > 10
    assert all(str(path) in message and "\n" not in message for message in told)


def test_contact_sheet_frames_what_is_not_valid(images: np.ndarray) -> None:
    reasons = np.array([0, 0, Reason.NO_FACE, 0, 0, 0], np.uint8)
    figure = contact_sheet(Lips(images, np.arange(6) / 25, reasons, 25), columns=4, title="s1")
    assert "5 of 6 video frames" in figure.get_suptitle()
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[:6] == ["", "", "no face", "", "", ""]
    figure.canvas.draw()
