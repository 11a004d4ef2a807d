"""Benchmarks that cannot find their recordings say so in one line."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = {path.stem: path.read_text(encoding="utf-8") for path in BENCHMARKS.glob("*.py")}
PART_OF_RECORDINGS = {"speed": ["lips"]}
"""Arguments of scripts of which only a part needs recordings."""
OF_RECORDINGS = [name for name, text in SCRIPTS.items() if "AVSE_DATA" in text and name != "common"]


@pytest.mark.parametrize("variable", ["absent", ""])
@pytest.mark.parametrize("name", OF_RECORDINGS)
def test_no_recordings_are_one_line(
    name: str,
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With AVSE_DATA at a folder that is not there, and without AVSE_DATA and its default."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    script = str(BENCHMARKS / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script, *PART_OF_RECORDINGS.get(name, [])])
    before = set(sys.modules)
    import common  # type: ignore[import-not-found]

    monkeypatch.setattr(common, "DEFAULT_DATA", tmp_path / "default")
    monkeypatch.setenv("AVSE_DATA", variable and str(tmp_path / variable))
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        for module in {"common", *SCRIPTS} & (set(sys.modules) - before):
            del sys.modules[module]
    assert ended.value.code == 2
    out, err = capfd.readouterr()
    (line,) = err.strip().splitlines()
    assert line.startswith(f"{name}.py: {tmp_path / (variable or 'default')}: ")
    assert "AVSE_DATA" in line
    assert out == ""


def test_every_benchmark_ends_in_one_line() -> None:
    """Each one runs through `common.run`, and none looks for recordings on its own."""
    assert {"bounds", "lips", "mixtures", "quality"} <= set(OF_RECORDINGS)
    for name, text in SCRIPTS.items():
        if name != "common":
            assert "    common.run(main)\n" in text, name
            assert "environ" not in text, name
