"""Docstrings of this project as reStructuredText.

They are plain text with Google's sections, `code` in backticks and indented formulas or code. Indented blocks
become literal blocks, and characters that mean something in reStructuredText alone, as the bars of |x|^2, are
escaped.
"""

import re
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Arguments|Attributes|Returns|Raises|Yields|Example|Examples|Note|Notes):$")
SEVERAL = re.compile(r"( {4})(\w+(?:, \w+)+):( .*)")
CODE = re.compile(r"(`[^`]+`)")
OF_PACKAGE = re.compile(r"`avse\.[\w.]+`")
SPECIAL = re.compile(r"[*|\\]|_(?=\W|$)")


def indentation(line: str) -> int:
    """Number of leading spaces."""
    return len(line) - len(line.lstrip())


def escaped(line: str) -> str:
    """The line with literal characters outside of code; full names of the package become links."""
    parts = CODE.split(line)
    parts[::2] = [SPECIAL.sub(r"\\\g<0>", part) for part in parts[::2]]
    parts[1::2] = [f":py:obj:{part}" if OF_PACKAGE.fullmatch(part) else f"`{part}`" for part in parts[1::2]]
    return "".join(parts)


def restructured(lines: list[str]) -> list[str]:
    """The lines of a docstring, without common indentation, as reStructuredText."""
    result: list[str] = []
    margin, section, literal = 0, False, None
    for index, line in enumerate(lines):
        indent = indentation(line)
        starts = index > 0 and not lines[index - 1].strip()
        if not line.strip():
            result.append("")
            continue
        if literal is not None and indent >= literal:
            result.append(line)
            continue
        literal = None
        if SECTION.match(line):
            section, margin = True, 0
        elif indent == 0:
            section, margin = False, 0
        elif starts and not section and indent >= margin + 2:
            literal = indent
            result.extend([" " * margin + "::", "", line])
            continue
        result.append(escaped(line))
    return result


def one_name_each(lines: list[str]) -> list[str]:
    """The lines, with an item of a section that names several arguments written once for each of them."""
    result: list[str] = []
    index = 0
    while index < len(lines):
        named = SEVERAL.match(lines[index])
        end = index + 1
        if named is None:
            result.append(lines[index])
        else:
            while end < len(lines) and indentation(lines[end]) > len(named[1]):
                end += 1
            for name in named[2].split(", "):
                result.extend([f"{named[1]}{name}:{named[3]}", *lines[index + 1 : end]])
        index = end
    return result


def process(app: Sphinx, what: str, name: str, object_: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines, before napoleon reads the sections."""
    lines[:] = restructured(one_name_each(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the conversion, ahead of napoleon's at priority 500."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
