"""What is imported when: torch, Pyro and Matplotlib take seconds, for which a help text need not wait."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import avse
import avse.zoo.shipped
from avse.cli import app as cli

HEAVY = {"torch", "pyro", "scipy", "matplotlib", "arviz", "huggingface_hub", "lightning", "pandas", "librosa"}


def imported(code: str, *arguments: object) -> set[str]:
    """Modules that a process of its own has imported after running `code`."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(chr(10), *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


COMMAND = "from avse.cli.app import main; main()"


def test_the_package_alone_imports_nothing_heavy() -> None:
    assert not imported("import avse") & {*HEAVY, "numpy", "typer", "rich"}


ONE_AFTER_THE_OTHER = """
import json, sys
from avse.cli.app import main
found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        found.append([end.code or 0, list(sys.modules)])
print()
print(json.dumps(found))
"""


def imported_by_commands(commands: Sequence[Sequence[object]]) -> list[tuple[int, set[str]]]:
    """Exit code of each command, and the modules that it and those before it have imported in one process."""
    arguments = json.dumps([[str(part) for part in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [(code, set(modules)) for code, modules in json.loads(done.stdout.splitlines()[-1])]


def test_help_and_reports_of_mistakes_import_nothing_heavy(tmp_path: Path) -> None:
    """Help, version and missing files without NumPy; a file without sound without torch."""
    path = tmp_path / "text.wav"
    path.write_text("no sound")
    commands = [
        *(["--help"], ["enhance", "--help"], ["--version"]),
        *(["enhance", "absent.wav"], ["diagnose", "--out", "page.html", "absent.wav"]),
        ["enhance", path],
    ]
    found = imported_by_commands(commands)
    assert [code for code, _ in found] == [0, 0, 0, 2, 2, 2]
    for command, (_, modules) in zip(commands, found, strict=True):
        assert not modules & HEAVY, command
    for command, (_, modules) in zip(commands[:5], found[:5], strict=True):
        assert "numpy" not in modules, command


@pytest.mark.slow
def test_enhancement_of_sound_imports_neither_figures_nor_the_search_for_faces(tmp_path: Path) -> None:
    path = tmp_path / "n.wav"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(4000), 16000)
    found = imported(COMMAND, "enhance", path)
    assert {"torch", "pyro"} <= found  # so that an empty list would not pass
    assert not found & {"matplotlib", "arviz", "scipy.ndimage", "joblib", "lightning", "pandas", "librosa"}
    assert (tmp_path / "n_enhanced.wav").is_file()


def test_public_names_are_listed_before_they_are_imported() -> None:
    assert set(avse.__all__) <= set(dir(avse))
    with pytest.raises(AttributeError, match="no attribute 'enhanced'"):
        _ = avse.enhanced  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = avse.zoo.lode  # type: ignore[attr-defined]


def test_shipped_is_the_function_and_not_the_module_of_that_name() -> None:
    assert "a-vae" in avse.zoo.shipped()


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import avse; assert 'amortised' in avse.inference.presets.PRESETS; avse.data.audio.read_audio",
        "import avse; from avse.recording import Recording",
        "from avse import zoo; zoo.load",
    ],
)
def test_parts_of_the_package_are_there_after_one_import(code: str) -> None:
    imported(code)


def test_the_command_line_asks_for_one_thread_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["avse", "--version"])
    for before, after in ((None, "1"), ("3", "3")):
        environment: dict[str, str] = {} if before is None else {"OMP_NUM_THREADS": before}
        monkeypatch.setattr(cli.os, "environ", environment)
        with pytest.raises(SystemExit):
            cli.main()
        assert environment["OMP_NUM_THREADS"] == after
