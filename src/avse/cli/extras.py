"""Optional dependencies: a command that lacks one names the extra that brings it."""

from collections.abc import Iterator
from contextlib import contextmanager

from avse.data.errors import InputError

EXTRAS = {
    "train": ("lightning",),
    "synthetic": ("espeakng_loader",),
    "metrics": ("fast_bss_eval", "pesq", "pystoi"),
    "serve": ("jinja2", "starlette", "uvicorn"),
    "evaluation": ("distributed", "jinja2", "pandas"),
}
"""Extra of the package -> modules that it brings."""


@contextmanager
def extras(*names: str) -> Iterator[None]:
    """Imports inside the block may need the named extras.

    Raises:
        InputError: a module of one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        for name in names:
            if (error.name or "").partition(".")[0] in EXTRAS[name]:
                raise InputError(
                    f"{error.name} is not installed; pip install 'avse[{','.join(names)}]'"
                ) from error
        raise
