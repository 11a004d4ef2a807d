"""Type-check the package as it is installed.

The folders of the repository are sub-packages of `avse` by the mapping in setup.cfg, which a type checker
does not follow. This lays links in .typing/avse so that they stand where they are imported from, checks
there, and fails if any module was left out. What mypy found stays in .mypy_cache, outside the links, which
are laid anew each time: a second check takes seconds.
"""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TYPING = ROOT / ".typing"


def lay_links() -> int:
    """Build the tree of links; return the number of modules in it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = dict(line.split(" = ") for line in setup["options"]["package_dir"].strip().splitlines())
    packages = setup["options"]["packages"].split()
    shutil.rmtree(TYPING, ignore_errors=True)
    count = 0
    for package in packages:
        target = TYPING.joinpath(*package.split("."))
        target.mkdir(parents=True, exist_ok=True)
        for source in sorted((ROOT / folders[package]).glob("*.py")):
            (target / source.name).symlink_to(source)
            count += 1
    (TYPING / "avse" / "py.typed").touch()
    return count


def main() -> int:
    """Check; return the exit code."""
    expected = lay_links()
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", *options, "avse"]
    result = subprocess.run(command, cwd=TYPING, capture_output=True, text=True)
    print(result.stdout + result.stderr, end="")
    counted = re.search(r"(?:in|checked) (\d+) source files", result.stdout)
    if result.returncode == 0 and (counted is None or int(counted[1]) != expected):
        print(f"expected {expected} source files to be checked")
        return 1
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
