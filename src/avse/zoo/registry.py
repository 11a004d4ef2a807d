"""The trained pairs that come with the package, and how to load any other."""

import os
from pathlib import Path

from avse.data.errors import InputError
from avse.zoo.migration import one_line
from avse.zoo.pair import SpeechPair, load_folder
from avse.zoo.shipped import SHIPPED, shipped

__all__ = ["SHIPPED", "load", "shipped"]


def load(name_or_path: str | Path) -> SpeechPair:
    """A trained pair, by the name of a shipped one or by its folder. No network is used.

    Raises:
        InputError: there is neither such a name nor such a folder, or the folder is damaged.
    """
    names = shipped()
    if str(name_or_path) in names:
        return load_folder(names[str(name_or_path)], str(name_or_path))
    if os.path.isdir(name_or_path):
        return load_folder(Path(name_or_path))
    raise InputError(
        f"{one_line(str(name_or_path))}: neither a shipped model ({', '.join(names) or 'none'}) nor a folder "
        "of a saved one"
    )
