"""Paired comparisons find differences that are known, say what they left out, and refuse unlike runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avse.data.errors import InputError
from avse.evaluation import compare
from avse.evaluation.comparison import shared_systems
from avse.evaluation.outcomes import outcomes

Make = Callable[..., pd.DataFrame]


def test_difference_is_found_and_said(made_results: Make) -> None:
    before, after = (made_results({"a-vae:auto": gain}, seed=k) for k, gain in enumerate((0.0, 0.42)))
    found = compare(before, after)
    own = found.differences["si_sdr"]
    gap = (after["enhanced_si_sdr"] - before["enhanced_si_sdr"]).to_numpy()
    assert own.mean == pytest.approx(gap.mean(), rel=1e-12)
    assert (own.pairs, own.undefined, found.mixtures, found.speakers) == (48, 0, 48, 6)
    assert own.win_rate == (gap > 0).mean()
    assert (found.clustered_by, found.notes, found.failures) == ("speaker", (), 0)
    assert (
        found.sentence("si_sdr")
        == (
            f"a-vae of B is {own.mean:.2f} dB better in SI-SDR than a-vae of A on 48 mixtures of 6 speakers "
            f"(95 % interval {own.lower:.2f} to {own.upper:.2f})."
        )
        or own.verdict == "alike"
    )
    back = compare(after, before).differences["si_sdr"]
    assert (back.mean, back.lower, back.upper) == pytest.approx((-own.mean, -own.upper, -own.lower))
    assert back.win_rate == pytest.approx(1 - own.win_rate)


def test_interval_covers_the_true_difference(made_results: Make) -> None:
    """12 pairs of runs with 8 speakers, a true difference of 0.42 dB: 6 or more intervals that miss it are a
    false alarm below 1e-4."""
    missed = 0
    for trial in range(12):
        runs = [
            made_results({"a-vae:auto": gain}, speakers=8, clips=1, noises=["cafe"], seed=100 + 2 * trial + k)
            for k, gain in enumerate((0.0, 0.42))
        ]
        own = compare(*runs).differences["si_sdr"]
        missed += not own.lower <= 0.42 <= own.upper
    assert missed < 6


def test_systems_of_one_run(made_results: Make) -> None:
    table = made_results({"a-vae:auto": 0.0, "av-vae:mcem": 1.0, "av-vae:vem": -1.0})
    better = compare(table, model="av-vae:mcem")
    worse = compare(table, model="av-vae:vem", baseline="a-vae")
    assert (better.system, better.baseline) == ("av-vae:mcem", "a-vae")
    assert better.differences["si_sdr"].verdict == "better"
    assert worse.differences["si_sdr"].verdict == "worse"
    assert worse.losses(["si_sdr", "stoi"]) == ["si_sdr", "stoi"]
    assert better.losses(["si_sdr"]) == []
    assert "worse in SI-SDR than a-vae on 48 mixtures of 6 speakers (95 % interval of the" in worse.sentence(
        "si_sdr"
    )
    with pytest.raises(InputError, match="name the system to compare"):
        compare(table)
    with pytest.raises(InputError, match="no system 'vae-mm'; there are a-vae, av-vae:mcem"):
        compare(table, model="vae-mm")
    with pytest.raises(InputError, match="compared with itself"):
        compare(table, model="a-vae")


def test_system_without_lips_meets_every_kind_of_lips(made_results: Make) -> None:
    lips = {"av-vae:auto": ["clean", "degraded"]}
    table = made_results({"a-vae:auto": 0.0, "av-vae:auto": 1.0}, lips=lips)
    both = compare(table, model="av-vae")
    assert (both.pairs, both.mixtures, both.lips) == (96, 48, ("clean", "degraded"))
    assert "on 96 pairs (48 mixtures, lips clean and degraded) of 6 speakers" in both.sentence("si_sdr")
    clean = compare(table, model="av-vae", lips="clean")
    assert (clean.pairs, clean.lips) == (48, ("clean",))
    rows = table[table["lips"] == "clean"]["enhanced_sdr"].mean()
    base = table[table["model"] == "a-vae"]["enhanced_sdr"].mean()
    assert clean.differences["sdr"].mean == pytest.approx(rows - base)
    back = compare(table, model="a-vae", baseline="av-vae")
    assert back.differences["sdr"].mean == pytest.approx(-both.differences["sdr"].mean)
    assert back.lips == ("clean", "degraded")
    with pytest.raises(InputError, match="was not run with lips 'blurred'"):
        compare(table, model="av-vae", lips="blurred")


def test_lips_are_paired_with_the_same_lips(made_results: Make) -> None:
    lips = {"av-vae:auto": ["clean", "degraded"]}
    before = made_results({"av-vae:auto": 0.0}, lips=lips, spread=0.0)
    after = before.copy()
    after.loc[after["lips"] == "degraded", "enhanced_stoi"] += 0.02
    assert compare(before, after).differences["stoi"].mean == pytest.approx(0.01)
    assert compare(before, after, lips="degraded").differences["stoi"].mean == pytest.approx(0.02)
    assert compare(before, after, lips="clean").differences["stoi"].mean == 0.0


def test_what_is_left_out_is_counted(made_results: Make, fail: Make) -> None:
    before = fail(made_results(), [0, 1])
    after = fail(made_results(seed=1), [1, 2, 3]).iloc[:-4]
    after.loc[5, "enhanced_pesq_wb"] = np.nan
    found = compare(before, after)
    assert (found.pairs, found.failures) == (40, 2)
    assert found.differences["pesq_wb"].pairs == 39
    assert found.differences["pesq_wb"].undefined == 1
    assert set(found.notes) == {
        "4 rows of a-vae of A without a partner in a-vae of B left out.",
        "2 mixtures that a-vae of A failed to enhance left out.",
        "3 mixtures that a-vae of B failed to enhance left out.",
        "PESQ-wb is undefined in 1 pair, left out.",
    }
    assert found.sentences()[-1] in found.notes


def test_few_speakers_are_said(made_results: Make) -> None:
    tables = [made_results({"a-vae:auto": gain}, speakers=2, clips=4, seed=gain) for gain in (0, 2)]
    found = compare(*tables)
    assert found.clustered_by == "clip"
    assert "Clips are resampled, because 2 speakers are too few to be resampled." in found.notes
    assert found.differences["si_sdr"].verdict == "better"
    single = compare(*(table.iloc[:1] for table in tables))
    own = single.differences["si_sdr"]
    assert (own.verdict, own.pairs) == ("unknown", 1)
    assert "on 1 mixture of 1 speaker (too few clips for an interval)" in single.sentence("si_sdr")
    with pytest.raises(InputError, match="cannot be judged"):
        single.losses(["si_sdr"])


def test_undefined_metric(made_results: Make) -> None:
    before, after = made_results(), made_results(seed=1)
    after["enhanced_stoi"] = np.nan
    found = compare(before, after)
    assert np.isnan(found.differences["stoi"].mean)
    assert "STOI is undefined in all 48 pairs" in found.sentence("stoi")
    with pytest.raises(InputError, match="no metric 'mos' in both runs; there are si_sdr"):
        found.losses(["mos"])


def test_equal_runs_do_not_differ(made_results: Make) -> None:
    found = compare(made_results(), made_results())
    assert {own.verdict for own in found.differences.values()} == {"alike"}
    assert {own.win_rate for own in found.differences.values()} == {0.5}
    assert found.sentence("sdr") == "a-vae of B and a-vae of A are equal in SDR on 48 mixtures of 6 speakers."
    after = made_results()
    after["enhanced_si_sdr"] += np.where(after["speaker"].isin(["s0", "s1", "s2"]), 0.5, -0.5)
    alike = compare(made_results(), after)
    assert alike.differences["si_sdr"].verdict == "alike"
    assert "do not differ significantly in SI-SDR on 48 mixtures of 6" in alike.sentence("si_sdr")


def test_seed_of_the_bootstrap_decides(made_results: Make) -> None:
    a, b = made_results(), made_results(seed=1)
    ends = [compare(a, b, seed=seed).differences["sdr"].lower for seed in (0, 0, 1)]
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("seed", 99, "has seed 99 for a-vae of B and 0 for a-vae of A"),
        ("level_definition", "speech-active (ITU-T P.56)", "definition of level 'broadband' and B"),
        ("protocol", "ntcd-timit", "protocol 'grid' and B 'ntcd-timit'"),
        ("noisy_si_sdr", 3.0, "is another sound"),
        ("mixture", "another", "no mixture was enhanced by both"),
    ],
)
def test_unlike_runs_are_refused(made_results: Make, column: str, value: object, said: str) -> None:
    after = made_results(speakers=1, clips=1, noises=["cafe"], levels=[0.0])
    before = after.copy()
    after[column] = value
    with pytest.raises(InputError) as refused:
        compare(before, after)
    assert said in str(refused.value)


def test_systems_of_two_runs(made_results: Make) -> None:
    a = outcomes(made_results({"a-vae:auto": 0.0, "av-vae:auto": 1.0}), "A")
    b = outcomes(made_results({"av-vae:auto": 1.0, "a-vae:auto": 0.0, "vae-mm:auto": 1.0}), "B")
    assert shared_systems(a, b) == ["av-vae:auto", "a-vae:auto"]
    with pytest.raises(InputError, match="name the systems to compare"):
        compare(a, b)
    assert compare(a, b, model="av-vae").system == "av-vae of B"
    assert compare(a, b, model="vae-mm", baseline="a-vae").system == "vae-mm"


def test_folders(made_results: Make, save: Callable[..., Path], tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", made_results()), save(tmp_path / "b", made_results({"a-vae:auto": 3.0}))
    found = compare(a, b)
    assert found.system == f"a-vae of {b}"
    assert found.differences["si_sdr"].verdict == "better"
    with pytest.raises(InputError, match="no such folder"):
        compare(a, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no"):
        compare(tmp_path / "empty", b)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.drop(columns=["speaker", "seed"]), "lack the columns speaker, seed"),
        (lambda t: t.iloc[:0], "holds no results yet"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "occurs twice"),
        (lambda t: t[[c for c in t if not c.startswith("enhanced_")]], "hold no metric"),
    ],
)
def test_unusable_tables_are_refused(made_results: Make, spoil: Make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare(made_results(), spoil(made_results()))
