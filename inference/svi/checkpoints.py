"""Checkpoints of a training run that are whole or absent, and the folder of the run, held by one process."""

import fcntl
import json
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from avse.data.errors import InputError
from avse.data.files import atomic_path, made_folder


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside, then rename."""
        made_folder(Path(path).parent)
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Tensors and plain values; no code in the file is run."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a run.

    Raises:
        InputError: it is empty, cut off or no checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not {"state_dict", "callbacks", "loops"} <= checkpoint.keys():
            raise InputError(f"{path}: no checkpoint of a training run")
    except (
        OSError, EOFError, RuntimeError, AttributeError, KeyError, IndexError, TypeError,
        ValueError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: damaged checkpoint; train afresh without --resume") from error
    found: dict[str, Any] = checkpoint
    return found


@contextmanager
def exclusive_run(out: Path) -> Iterator[None]:
    """Hold the folder of a run for this process; run.lock in it names the process that does.

    The lock ends with the process, however that ends.

    Raises:
        InputError: another run holds it, or it cannot be written.
    """
    path = made_folder(out) / "run.lock"
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read(20).strip()
            raise InputError(
                f"{out}: process {owner} is training there; wait for it or give another folder"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def starting_checkpoint(out: Path, resume: bool, record: Mapping[str, Any]) -> Path | None:
    """Where a run in `out` starts: the last whole checkpoint, or None for the beginning.

    A run that does not resume forgets the checkpoints of an earlier one. `record` is kept in run.json.

    Args:
        out: folder of the run.
        resume: go on with the run there.
        record: what the run is, in plain values; must be the same when it is resumed.

    Raises:
        InputError: nothing to resume, no checkpoint that is whole, or a run with another record.
    """
    plain = json.loads(json.dumps(record))
    kept, folder = out / "run.json", out / "checkpoints"
    found = [folder / name for name in ("last.ckpt", "best.ckpt") if (folder / name).is_file()]
    if not resume:
        for path in found:
            path.unlink()
        with atomic_path(kept) as temporary:
            temporary.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        return None
    if kept.is_file():
        _check_record(kept, plain)
    if not found:
        if kept.is_file():  # killed before the first epoch ended
            return None
        raise InputError(
            f"{folder / 'last.ckpt'}: no checkpoint to resume from; leave out --resume to start afresh"
        )
    for path in found:
        try:
            read_checkpoint(path)
        except InputError as error:
            damage = error
        else:
            if path is not found[0]:
                warnings.warn(f"{found[0]} is damaged: resumed from {path}", stacklevel=2)
            return path
    raise damage


def _check_record(kept: Path, record: dict[str, Any]) -> None:
    try:
        earlier = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{kept}: damaged; train afresh without --resume") from error
    if not isinstance(earlier, dict):
        raise InputError(f"{kept}: damaged; train afresh without --resume")
    differing = [name for name in record if earlier.get(name) != record[name]]
    if differing:
        raise InputError(
            f"{kept}: that run has another {', '.join(differing)}; "
            "resume it with its own, or use another folder"
        )
