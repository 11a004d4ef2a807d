"""Every example runs, with tiny settings, and is short."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ARGUMENTS = {
    "enhance_a_recording.py": ["--out", "out.wav", "--figure", "figure.png"],
    "linear_gaussian_em.py": ["--frames", "30", "--iterations", "3", "--figure", "figure.png"],
    "train_a_vae.py": ["--speakers", "3", "--sentences", "2", "--epochs", "2", "--out", "run"],
}
WRITES = {
    "enhance_a_recording.py": ["out.wav", "figure.png"],
    "linear_gaussian_em.py": ["figure.png"],
    "train_a_vae.py": ["run/checkpoints/best.ckpt", "run/report.json"],
}


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *ARGUMENTS[name]])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    for written in WRITES[name]:
        assert (tmp_path / written).stat().st_size > 0


def test_every_example_is_listed_and_short() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == set(ARGUMENTS)
    for name in names:
        assert len((EXAMPLES / name).read_text().splitlines()) < 150, name
