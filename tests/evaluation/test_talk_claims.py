"""The claims of the talk are found where they are true of made-up results, and denied where they are not."""

import argparse
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from avse.data.errors import InputError

ROOT = Path(__file__).parents[2]
LIPS = ("clean", "degraded")
Make = Callable[..., pd.DataFrame]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    yield runpy.run_path(str(ROOT / "benchmarks" / "talk.py"))
    sys.modules.pop("common", None)


def results(made_results: Make) -> pd.DataFrame:
    """AV-VAE gains 1 dB, at low levels 2, and loses 2 by degraded lips; VAE-MM gains 1 dB anyhow."""
    gains = {
        "a-vae:auto": 0.0,
        "v-vae:auto": -3.0,
        "av-vae:auto": 1.0,
        "vae-mm:auto": 1.0,
        "min-vae-v1:auto": 0.0,
    }
    table = made_results(
        gains,
        speakers=6,
        clips=1,
        noises=["cafe"],
        lips={name: LIPS for name in gains if name != "a-vae:auto"},
    )
    own = table["model"] == "av-vae"
    for metric, unit in {"si_sdr": 1.0, "pesq_wb": 0.05, "stoi": 0.005}.items():
        table.loc[own & (table["level"] < 0) & (table["lips"] == "clean"), f"enhanced_{metric}"] += unit
        table.loc[own & (table["lips"] == "degraded"), f"enhanced_{metric}"] -= 2 * unit
    return table


def test_claims(made_results: Make, save: Callable[..., Path], talk: dict[str, Any], tmp_path: Path) -> None:
    folder = save(tmp_path / "run", results(made_results))
    (tmp_path / "tables").mkdir()
    files = talk["written"]([folder], tmp_path / "tables")
    assert [path.name for path in files] == ["evaluation_grid.md", "claims_grid.md"]
    rows = [[cell.strip() for cell in line.split("|")] for line in files[1].read_text().splitlines()]
    strangers = {row[1]: row for row in rows if len(row) > 5 and row[2].startswith("strangers")}
    verdicts = {name: {cell.rpartition(": ")[2] for cell in row[4:7]} for name, row in strangers.items()}
    assert verdicts["AV-VAE is above A-VAE"] == {"yes"}
    assert verdicts["... and more so at low levels"] == {"yes"}
    assert verdicts["AV-VAE is above V-VAE"] == {"yes"}
    assert verdicts["VAE-MM loses less by degraded lips than AV-VAE"] == {"yes"}
    assert verdicts["VAE-MM is above AV-VAE, lips degraded"] == {"yes"}
    assert verdicts["MIN-VAE, version 1 is above AV-VAE"] == {"no, the contrary"}
    assert not any(name.startswith("MIN-VAE, version 2") for name in verdicts)
    assert strangers["AV-VAE is above A-VAE"][2:4] == ["strangers (s0, s2, s3, s4, s5)", "10"]
    mean = float(strangers["AV-VAE is above A-VAE"][4].split()[0])
    assert mean == pytest.approx(1.5, abs=0.15)
    assert float(strangers["... and more so at low levels"][4].split()[0]) == pytest.approx(1.0, abs=0.3)


def with_two_algorithms(made_results: Make) -> pd.DataFrame:
    """The results above, and AV-VAE by "worse" as well, which loses 20 dB; those rows come first."""
    table = results(made_results)
    worse = table[table["model"] == "av-vae"].assign(algorithm="worse")
    worse["enhanced_si_sdr"] -= 20.0
    return pd.concat([worse, table], ignore_index=True)


def av_vae_above_a_vae(text: str) -> str:
    """Verdict on SI-SDR of strangers."""
    (line,) = (line for line in text.splitlines() if line.startswith("| AV-VAE is above A-VAE | strangers"))
    return line.split("|")[4].rpartition(": ")[2].strip()


@pytest.mark.slow
def test_one_of_several_algorithms_is_chosen_by_name(
    made_results: Make, save: Callable[..., Path], talk: dict[str, Any], tmp_path: Path
) -> None:
    folder = save(tmp_path / "run", with_two_algorithms(made_results))
    (tmp_path / "tables").mkdir()
    verdicts = {}
    for algorithm in ("auto", "worse"):
        talk["written"]([folder], tmp_path / "tables", {"av-vae": algorithm})
        text = (tmp_path / "tables" / "claims_grid.md").read_text()
        assert f"Algorithms: av-vae by {algorithm}." in text
        verdicts[algorithm] = av_vae_above_a_vae(text)
    assert verdicts == {"auto": "yes", "worse": "no, the contrary"}


@pytest.mark.parametrize(
    ("chosen", "words"),
    [({}, "run with auto, worse, choose one"), ({"av-vae": "vem"}, "run with auto, worse, not vem")],
)
def test_several_algorithms_and_no_choice_are_refused(
    chosen: dict[str, str],
    words: str,
    made_results: Make,
    save: Callable[..., Path],
    talk: dict[str, Any],
    tmp_path: Path,
) -> None:
    folder = save(tmp_path / "run", with_two_algorithms(made_results))
    (tmp_path / "tables").mkdir()
    with pytest.raises(InputError, match=words):
        talk["written"]([folder], tmp_path / "tables", chosen)
    assert not list((tmp_path / "tables").iterdir())


@pytest.mark.parametrize("text", ["av-vae", "b-vae=mcem", "av-vae="])
def test_choices_that_are_none_are_refused(talk: dict[str, Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="MODEL=ALGORITHM"):
        talk["_choice"](text)


def test_tables(made_results: Make, save: Callable[..., Path], talk: dict[str, Any], tmp_path: Path) -> None:
    table = made_results(speakers=2, clips=4, noises=[None], levels=[None], protocol="voicebank-demand")
    files = talk["written"]([save(tmp_path / "run", table)], tmp_path)
    assert [path.name for path in files] == ["evaluation_voicebank-demand.md"]
    text = files[0].read_text()
    assert "2 cores, 60 minutes of computation, 2026-11-27; avse 0.1, torch 2." in text
    assert "**Improvements**" in text
    assert "/work" not in text
    assert str(tmp_path) not in text
