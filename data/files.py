"""Files that can be read, and output files that are whole or absent: written beside, then renamed."""

import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from avse.data.errors import InputError

ABANDONED = 24 * 3600.0  # s without a change, after which a temporary file of any machine is abandoned

_TEMPORARY = re.compile(r"\.avse-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}(\..*)?")


def check_source(path: str | os.PathLike[str], wanted: str) -> None:
    """Check that `path` is a regular file with content that may be read; a pipe is not opened.

    Args:
        path: of the file.
        wanted: what to give instead, such as "a sound file or a video".

    Raises:
        InputError: the file is missing, a folder, a pipe or device, empty, or not permitted.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give {wanted}")
        status = path.stat()
        if not path.is_file():
            raise InputError(
                f"{path}: is not a regular file but a pipe or device; save it as a file and give {wanted}"
            )
        if status.st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); record or copy it again")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise InputError(f"{path}: does not exist; check the name") from error
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be opened ({reason}); check its name and permissions") from error


def check_distinct(**paths: str | os.PathLike[str] | None) -> None:
    """Refuse paths of which any two are one file: by link, by another spelling, or but for upper case.

    Args:
        paths: by what they are to the user, such as `out`; None is no path.

    Raises:
        InputError: names the two.
    """
    given = [(name, Path(path)) for name, path in paths.items() if path is not None]
    for index, (name, path) in enumerate(given):
        for other_name, other in given[:index]:
            if _same_file(path, other):
                raise InputError(
                    f"{path}: is both {other_name} and {name}; give another name for one of them"
                )


def _same_file(first: Path, second: Path) -> bool:
    with suppress(OSError, ValueError):
        if os.path.samefile(first, second):
            return True
    return os.path.realpath(first).casefold() == os.path.realpath(second).casefold()


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

    The caller writes a file at the path it is given, and closes it. When the block raises, the temporary
    file is removed and what was at `path` before is untouched. A link is followed, and an old file's
    permissions are kept; a new file gets those of any new file in the folder. Temporary files that killed
    processes left in the folder are removed first.

        with atomic_path("report.json") as temporary:
            temporary.write_text(text)

    Raises:
        InputError: `path` cannot be written (see `check_destination`), or the operating system refused
            the writing inside the block (disk full, quota).
    """
    check_destination(path)
    target = _real(path)
    remove_abandoned(target.parent)
    temporary = target.with_name(f".avse-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}")
    try:
        with temporary.open("xb") as created:
            mode = os.stat(created.fileno()).st_mode & 0o777
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        else:
            temporary.chmod(mode)
        temporary.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: could not be written ({reason}); free the space or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of `atomic_path` in a folder whose process ended without doing so.

    A file is abandoned where its process is known to be dead, or after `ABANDONED` seconds without a change.
    What cannot be listed or removed is left.
    """
    machine = _machine()
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None:
                continue
            with suppress(OSError):
                dead = match[1] == machine and not _is_alive(int(match[2]))
                old = time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED
                if dead or old:
                    os.unlink(entry.path)


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # there, signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _machine() -> str:
    """8 hexadecimal digits that name the machine and, in a container, its own numbering of processes."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    node = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return hashlib.sha256(f"{node}|{numbering}".encode(errors="surrogateescape")).hexdigest()[:8]


def _real(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))
