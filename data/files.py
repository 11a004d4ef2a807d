"""Output files that are whole or absent: written under a temporary name, then renamed."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avse.data.errors import InputError


def check_destination(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written at `path`, before a long computation and without leaving a trace.

    Raises:
        InputError: the folder is missing or cannot be written, `path` is a folder or a device, or the
            file that is there is write-protected.
    """
    try:
        target = _real(path)
        if target.is_dir():
            raise InputError(f"{path}: is a folder; give the name of a file")
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: is not a regular file; give another name")
        if target.exists() and not os.access(target, os.W_OK):
            raise InputError(f"{path}: is write-protected; change its permissions or give another name")
        if not target.parent.is_dir():
            raise InputError(f"{path}: the folder {target.parent} does not exist; create it first")
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written there ({reason}); choose another place") from error


def made_folder(path: str | os.PathLike[str]) -> Path:
    """The folder at `path`, made with its parents where missing, and checked to be writable.

    Raises:
        InputError: there is a file of that name, or the system refuses.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: no folder can be used there ({reason}); choose another place") from error
    return folder


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`, with its suffix; on success rename it to `path`.

    The caller writes a file at the path it is given. When the block raises, the temporary file is removed
    and what was at `path` before is untouched. A link is followed, and an old file's permissions are kept.

        with atomic_path("report.json") as temporary:
            temporary.write_text(text)

    Raises:
        InputError: `path` cannot be written (see `check_destination`), or the operating system refused
            the writing inside the block (disk full, quota).
    """
    check_destination(path)
    target = _real(path)
    temporary = target.with_name(f".{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: could not be written ({reason}); free the space or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _real(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))
