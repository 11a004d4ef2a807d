"""Where the trained pairs of the package lie."""

from importlib.resources import files
from pathlib import Path

SHIPPED = Path(str(files("avse.zoo"))) / "weights"


def shipped() -> dict[str, Path]:
    """Name and folder of every pair in the package."""
    return {folder.name: folder for folder in sorted(SHIPPED.iterdir()) if (folder / "config.json").is_file()}
