"""What is imported when: torch, Pyro and Matplotlib take seconds, for which a help text need not wait."""

import subprocess
import sys
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


@pytest.mark.parametrize("arguments", [["--help"], ["enhance", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not imported(COMMAND, *arguments) & {*HEAVY, "numpy"}


@pytest.mark.parametrize("command", [["enhance"], ["diagnose", "--out", "page.html"]])
def test_a_missing_file_is_reported_before_anything_heavy_is_imported(command: list[str]) -> None:
    assert not imported(COMMAND, *command, "absent.wav") & {*HEAVY, "numpy"}


def test_a_file_without_sound_is_reported_before_torch_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "text.wav"
    path.write_text("no sound")
    assert not imported(COMMAND, "enhance", path) & HEAVY


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
