"""Where the recordings are that benchmarks measure on, and how a benchmark ends."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from avse.data.errors import InputError

USER_ERROR = 2
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def recordings() -> Path:
    """The folder of the recordings: AVSE_DATA, by default ../shared/data.

    Raises:
        InputError: there is no splits.csv in it.
    """
    folder = Path(os.environ.get("AVSE_DATA") or DEFAULT_DATA)
    if not (folder / "splits.csv").is_file():
        raise InputError(f"{folder}: holds no splits.csv; set AVSE_DATA to the folder of the recordings")
    return folder


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; what the user must mend ends in one line on stderr and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
