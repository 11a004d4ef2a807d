"""The lessons of the course: notebooks in pairs, with exercises and solutions, that run from top to bottom.

A lesson is docs/course/0*.md, a MyST notebook, paired by jupytext with an .ipynb without outputs. Code that
is not the lesson itself (imports, plotting helpers) is in cells with the tag "helper"; that of solutions is
in cells with the tag "solution" inside of `<details>`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

COURSE = Path(__file__).resolve().parents[2] / "docs" / "course"
LESSONS = sorted(COURSE.glob("0*.md"))
NAMES = [lesson.stem for lesson in LESSONS]
QUICK: tuple[str, ...] = ()
"""Lessons that run in under 5 s."""
HELPER_LINES = 40
SECONDS = 60
"""Processor time that a lesson may take, with its imports: a busy machine does not change it."""

every_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)


def cells(notebook: Any) -> list[tuple[str, str, list[str]]]:
    """Type, source and tags of every cell."""
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def code(lesson: Path, tag: str | None = None) -> list[str]:
    """Sources of the code cells, all or those with a tag."""
    found = cells(jupytext.read(lesson))
    return [source for kind, source, tags in found if kind == "code" and (tag is None or tag in tags)]


def test_lessons_are_found_and_listed() -> None:
    """Every lesson is in the table of contents of the course, in order."""
    index = (COURSE / "index.md").read_text(encoding="utf-8")
    (toctree,) = re.findall(r"```\{toctree\}\n(?::[^\n]*\n)*\n?(.*?)```", index, re.DOTALL)
    listed = toctree.split()
    assert len(LESSONS) >= 4
    assert len(listed) == 7
    assert [name for name in listed if name in NAMES] == NAMES


@every_lesson
def test_pair_is_in_step(lesson: Path) -> None:
    """The .ipynb has the same cells as the .md; `jupytext --sync docs/course/0*.md` makes it so."""
    notebook = nbformat.read(lesson.with_suffix(".ipynb"), as_version=4)
    assert cells(notebook) == cells(jupytext.read(lesson))


@every_lesson
def test_notebook_holds_no_outputs(lesson: Path) -> None:
    notebook = nbformat.read(lesson.with_suffix(".ipynb"), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@every_lesson
def test_little_code_is_not_the_lesson(lesson: Path) -> None:
    helpers = code(lesson, "helper")
    assert helpers
    assert sum(len(source.splitlines()) for source in helpers) <= HELPER_LINES


@every_lesson
def test_every_exercise_has_a_solution(lesson: Path) -> None:
    """After each heading of an exercise one block of `<details>`, and code that is executed, in it."""
    parts = re.split(r"^### Exercise (\d+): \S.*$", lesson.read_text(encoding="utf-8"), flags=re.MULTILINE)
    numbers, texts = parts[1::2], parts[2::2]
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
    assert 3 <= len(numbers) <= 5
    for text in texts:
        block = r"<details>\n<summary>Solution</summary>\n\n(.*?)\n</details>"
        (solution,) = re.findall(block, text, re.DOTALL)
        assert "```{code-cell}" in solution
        assert "solution" in solution
    assert len(code(lesson, "solution")) >= len(numbers)


@pytest.mark.parametrize(
    "lesson",
    [
        pytest.param(lesson, id=lesson.stem, marks=[] if lesson.stem in QUICK else [pytest.mark.slow])
        for lesson in LESSONS
    ],
)
def test_lesson_runs(lesson: Path, tmp_path: Path) -> None:
    """All code cells, those of the solutions too, one after the other; their assertions hold."""
    script = tmp_path / f"{lesson.stem}.py"
    limit = f"import resource\n\nresource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))"
    script.write_text("\n\n".join([limit, *code(lesson)]), encoding="utf-8")
    home = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    settings = {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", **home}
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"exit status {ran.returncode}\n{ran.stderr[-3000:]}"
