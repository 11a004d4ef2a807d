"""The report shows the means of the table, escapes every name, and has an answer to whatever a run left."""

import base64
import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from avse.data.errors import InputError
from avse.evaluation.outcomes import by_lips, outcomes
from avse.evaluation.results_report.figures import looks, pictures
from avse.evaluation.results_report.page import report_of
from avse.evaluation.results_report.summary import Summary, summarized
from avse.evaluation.results_report.tables import Table, latex, tables
from avse.evaluation.statistics import cluster_means

Make = Callable[..., pd.DataFrame]
LIPS = {"av-vae:auto": ["clean", "degraded"]}
SYSTEMS = {"a-vae:auto": 0.0, "av-vae:auto": 1.0}
WICKED = '<b>"R&D"</b>_50% #1 $x^2$ {a}~\\|'


class Page(HTMLParser):
    """Elements and texts of a page; fails on elements that are closed in the wrong order."""

    EMPTY = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def summary_of(table: pd.DataFrame) -> Summary:
    return summarized(outcomes(table))


def named(own: list[Table], name: str) -> Table:
    return next(table for table in own if table.name == name)


def test_cells_are_the_means_of_the_table(made_results: Make) -> None:
    table = made_results(SYSTEMS, lips=LIPS)
    found = summary_of(table)
    assert (found.lips, found.systems) == (("clean", "degraded"), ("a-vae", "av-vae"))
    assert (found.noises, found.levels) == (("cafe", "white"), (-5.0, 5.0))
    rows = table[(table["model"] == "av-vae") & (table["lips"] == "degraded")]
    rows = rows[(rows["noise_type"] == "cafe") & (rows["level"] == 5)]
    gain = rows["enhanced_stoi"] - rows["noisy_stoi"]
    cell = found.cell("degraded", "av-vae", "stoi", "cafe", 5.0)
    assert cell is not None
    own = cluster_means(gain, rows["speaker"], np.random.default_rng(3))
    assert (cell.mean, cell.count) == (pytest.approx(gain.mean()), 12)
    assert (cell.noisy, cell.enhanced) == pytest.approx(
        (rows["noisy_stoi"].mean(), rows["enhanced_stoi"].mean())
    )
    assert cell.upper - cell.lower == pytest.approx(own.upper[0] - own.lower[0], rel=0.15)
    everything = found.cell("clean", "a-vae", "si_sdr")
    assert everything is not None
    assert everything.count == 48
    assert found.cell("clean", "a-vae", "si_sdr") == everything


def test_system_without_lips_stands_beside_all_lips(made_results: Make) -> None:
    own = outcomes(made_results(SYSTEMS, lips=LIPS))
    parts = by_lips(own)
    assert {lips: set(rows["model"]) for lips, rows in parts.items()} == {
        "clean": {"a-vae", "av-vae"},
        "degraded": {"a-vae", "av-vae"},
    }
    assert list(by_lips(outcomes(made_results()))) == ["none"]
    withheld = by_lips(outcomes(made_results(SYSTEMS, lips={"av-vae:auto": ["none", "clean"]})))
    assert {lips: len(rows) for lips, rows in withheld.items()} == {"clean": 96, "none": 96}
    captions = [picture.caption for picture in pictures(summarized(own))]
    assert all("a-vae listens only: the same results stand beside every kind of lips." in c for c in captions)


def test_figures_draw_the_means(made_results: Make) -> None:
    found = summary_of(made_results(SYSTEMS, lips=LIPS))
    drawn = pictures(found)
    assert [picture.name for picture in drawn] == [
        "improvement",
        "other-metrics",
        "pesq_wb-by-noise",
        "sdr-by-noise",
        "stoi-by-noise",
    ]
    first = drawn[0].figure
    titles = [axes.get_title() for axes in first.axes]
    assert titles == [
        *("PESQ-wb, clean lips", "SDR, clean lips", "STOI, clean lips"),
        *("PESQ-wb, degraded lips", "SDR, degraded lips", "STOI, degraded lips"),
    ]
    lines = [container.lines[0] for container in first.axes[4].containers]
    expected = [found.cell("degraded", "av-vae", "sdr", level=level) for level in (-5.0, 5.0)]
    np.testing.assert_allclose(lines[1].get_ydata(), [cell.mean for cell in expected if cell])
    assert np.abs(lines[1].get_xdata() - [-5, 5]).max() < 2
    assert first.axes[1].get_ylim() == first.axes[4].get_ylim()
    assert first.axes[4].get_ylabel() == "improvement (dB)"
    assert first.axes[4].get_xlabel() == "input level (dB)"
    assert "n = 24 mixtures a point" in drawn[0].caption
    assert "95 % intervals from a bootstrap of 6 speakers." in drawn[0].caption
    assert "Level of speech over noise: broadband." in drawn[0].caption


@pytest.mark.slow
def test_nothing_in_a_figure_overlaps(made_results: Make) -> None:
    """Titles, labels and legend of the widest figure lie within it and apart from each other."""
    systems = {f"runs/a-rather-long-name-of-a-model-{k}:auto": k for k in range(9)}
    table = made_results(systems, speakers=5, clips=1, noises=["living room", "b"], levels=[-15, 0])
    for picture in pictures(summary_of(table)):
        figure = picture.figure
        figure.draw_without_rendering()
        whole = figure.bbox
        assert all(legend.get_window_extent().x0 > 2 for legend in figure.legends)
        boxes = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
        boxes += [legend.get_window_extent() for legend in figure.legends]
        assert min(axes.bbox.height for axes in figure.axes if axes.get_visible()) > 100, picture.name
        for k, box in enumerate(boxes):
            assert box.x0 >= whole.x0 - 1, picture.name
            assert box.x1 <= whole.x1 + 1, picture.name
            for other in boxes[:k]:
                across = min(box.x1, other.x1) - max(box.x0, other.x0)
                along = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert min(across, along) < 1, picture.name


def test_systems_look_different_in_grey() -> None:
    marks = [(marker, line) for _, marker, line in looks(7)]
    assert len(set(marks)) == 7
    assert len({marker for marker, _ in marks}) == 7
    assert len(set(looks(60))) == 60


def test_ready_pairs_are_points_without_levels(made_results: Make) -> None:
    table = made_results(
        SYSTEMS, speakers=2, clips=10, noises=[None], levels=[None], protocol="voicebank-demand"
    )
    table["level_definition"] = "as released"
    found = summary_of(table)
    drawn = pictures(found)
    assert [picture.name for picture in drawn] == ["improvement", "other-metrics"]
    axes = drawn[0].figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a-vae", "av-vae"]
    assert axes.get_xlabel() == "improvement (MOS)"
    assert "of every system (n = 20 mixtures a point)" in drawn[0].caption
    assert "Level" not in drawn[0].caption
    assert "bootstrap of 20 clips. Clips are resampled, because 2 speakers are too few" in drawn[0].caption
    assert [table.name for table in tables(found)] == ["overall", "metrics", "differences"]


def test_tables(made_results: Make) -> None:
    found = summary_of(made_results(SYSTEMS, lips=LIPS))
    own = tables(found)
    cell = found.cell("clean", "av-vae", "si_sdr")
    assert cell is not None
    overall = named(own, "overall")
    assert overall.rows[1][:4] == ("clean", "av-vae", "48", "0")
    assert overall.rows[1][4] == f"+{cell.mean:.2f} [+{cell.lower:.2f}, +{cell.upper:.2f}]"
    assert overall.rows[1][-1] == "0.20"
    assert named(own, "metrics").rows[1][2] == f"{cell.noisy:.2f} → {cell.enhanced:.2f}"
    differences = named(own, "differences")
    compared = found.comparisons["clean", "av-vae"].differences["si_sdr"]
    assert differences.rows[0][2] == "48"
    assert differences.rows[0][3].startswith(f"{compared.mean:+.2f} [{compared.lower:+.2f}, ")
    assert differences.rows[0][3].endswith(f"], {100 * compared.win_rate:.0f} %")
    assert named(own, "stoi-by-level").head == ("lips", "system", "-5 dB", "5 dB")
    assert named(own, "stoi-by-noise").head == ("lips", "system", "cafe", "white")


def test_tables_in_three_formats() -> None:
    table = Table(
        "t_1", "T", f"Means of {WICKED}.", ("system", "SI-SDR (dB)"), ((WICKED, "-0.50 [–, +1.00]"),), 1
    )
    written = table.latex()
    assert r"\toprule" in written
    assert r"\label{tab:t-1}" in written
    assert r"$-0.50$ [--, $+1.00$] \\" in written
    assert r"\textless{}b\textgreater{}" in written
    body = written[written.index(r"\midrule") :]
    assert r"R\&D" in body
    assert r"50\% \#1 \$x\textasciicircum{}2\$ \{a\}\textasciitilde{}\textbackslash{}\textbar{}" in body
    lines = table.markdown().splitlines()
    assert lines[1] == "| --- | ---: |"
    assert len(re.findall(r"(?<!\\)\|", lines[2])) == 3
    assert r"\<b\>" in lines[2]
    assert next(csv.reader(io.StringIO(table.csv().splitlines()[1]))) == [WICKED, "-0.50 [–, +1.00]"]
    assert latex("a_b") == r"a\_b"


def test_page(made_results: Make, fail: Make, save: Callable[..., Path], tmp_path: Path) -> None:
    table = fail(made_results(SYSTEMS, clips=1, lips=LIPS), [0, 4])
    folder = save(tmp_path / "run", table)
    seen: list[float] = []
    report = report_of(folder, progress=seen.append)
    page = Page(report.page)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert "2 of 72 enhancements failed" in page.text
    assert "the noise is silent" in page.text
    assert "Clean lips: av-vae is" in page.text
    assert "The run kept no sounds of them." in page.text
    for said in (
        "2 cores",
        "avse 0.1, torch 2",
        "60.0 minutes",
        "0" * 64,
        "broadband",
        "2026-11-27T12:00:00",
    ):
        assert said in page.text, said
    assert len([tag for tag, _ in page.elements if tag == "img"]) == 5
    means = pd.read_csv(io.StringIO(report.cells))
    assert len(means) == 4 * 9 * 6
    assert {"lips", "system", "noise", "level", "metric", "mean", "lower", "upper", "count"} <= set(means)


@pytest.fixture(scope="module")
def everything(
    made_results: Make, fail: Make, save: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Page]:
    """A page with figures, comparisons, players and failures: its text and what is parsed of it."""
    table = made_results(SYSTEMS, speakers=5, clips=1, noises=["cafe"], lips=LIPS)
    folder = save(tmp_path_factory.mktemp("run"), fail(table, [0, 4]))
    (folder / "worst").mkdir()
    sf.write(folder / "worst" / "0.flac", np.full(80, 0.1), 16000)
    entry = {"mixture": "s1/clip0 cafe -5 dB", "algorithm": "auto", "metric": "si_sdr", "improvement": -1.0}
    entry |= dict.fromkeys(("clean", "noisy", "enhanced"), "0.flac")
    systems = [("a-vae", "none"), ("av-vae", "clean"), ("av-vae", "degraded")]
    entries = [{**entry, "model": model, "lips": lips} for model, lips in systems]
    (folder / "worst" / "worst.json").write_text(json.dumps(entries))
    text = report_of(folder).page
    return text, Page(text)


def test_page_needs_nothing_from_elsewhere(everything: tuple[str, Page]) -> None:
    """Every address is in the page, and every link within it has a target."""
    text, page = everything
    sources = {"src", "href", "srcset", "data", "poster", "action", "background", "cite"}
    addresses = [value or "" for _, own in page.elements for name, value in own.items() if name in sources]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    targets = {own["id"] for _, own in page.elements if "id" in own}
    assert {address[1:] for address in addresses if address.startswith("#")} <= targets
    assert not re.search(r"https?:|@import|url\(", text)
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "iframe", "object", "embed", "base", "form"})


def test_page_can_be_read_by_anybody(everything: tuple[str, Page]) -> None:
    """On a telephone, with a screen reader, by keyboard: scale, language, labels, headings, regions."""
    _, page = everything
    by_tag: dict[str, list[dict[str, str | None]]] = {}
    for tag, own in page.elements:
        by_tag.setdefault(tag, []).append(own)
    assert by_tag["html"] == [{"lang": "en"}]
    assert len(by_tag["title"]) == len(by_tag["main"]) == len(by_tag["h1"]) == 1
    meta = {own.get("name"): own.get("content") for own in by_tag["meta"]}
    assert "width=device-width" in str(meta["viewport"])
    assert not re.search("user-scalable|maximum-scale", str(meta["viewport"]))
    assert all((own.get("alt") or "").strip() for own in by_tag["img"])
    players = [own.get("aria-label") for own in by_tag["audio"]]
    assert all(players)
    assert len(set(players)) == len(players) == 9
    assert all("controls" in own and "autoplay" not in own for own in by_tag["audio"])
    heads = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert heads[0] == 1
    assert max(heads) == 3
    assert all(after <= before + 1 for before, after in pairwise(heads))
    assert all(own.get("scope") in ("col", "row") for own in by_tag["th"])
    scrolled = [own for own in by_tag["div"] if own.get("class") in ("table", "image")]
    assert len(scrolled) == len(by_tag["table"]) + len(by_tag["img"])
    assert all(own.get("tabindex") == "0" and own.get("aria-label") for own in scrolled)
    identities = [own["id"] for _, own in page.elements if "id" in own]
    assert len(set(identities)) == len(identities)


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, 0 to 1 (WCAG 2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_page_has_a_dark_scheme_that_can_be_read(made_results: Make) -> None:
    """Both schemes define every colour; text has a contrast of 4.5 on all that it is written on (WCAG AA)."""
    page = report_of(made_results(speakers=1, clips=1, noises=["cafe"], levels=[0.0])).page
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (dark,) = re.findall(r"@media\s*\(prefers-color-scheme:\s*dark\)\s*\{:root\{(.*?)\}\}", style)
    light = re.search(r":root\{(.*?)\}", style)
    assert light is not None
    schemes = [dict(re.findall(r"--(\w+):(#\w+)", text)) for text in (light[1], dark)]
    used = set(re.findall(r"var\(--(\w+)\)", style))
    for colours in schemes:
        assert set(colours) == used
        for ink in ("ink", "soft", "link"):
            for ground in ("paper", "card"):
                low, high = sorted((luminance(colours[ink]), luminance(colours[ground])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)
    assert luminance(schemes[0]["paper"]) > 0.5 > luminance(schemes[1]["paper"])
    assert '<meta name="color-scheme" content="light dark">' in page


def test_long_titles_are_wrapped_and_keep_apart(made_results: Make) -> None:
    """Titles of neighbours are a tenth of an inch apart, and lie within the figure."""
    noises = ["domestic_other", "transport_metro", "without_any_space_in_it_at_all"]
    table = made_results(SYSTEMS, speakers=1, clips=1, noises=noises, lips=LIPS)
    picture = next(picture for picture in pictures(summary_of(table)) if picture.name == "sdr-by-noise")
    figure = picture.figure
    figure.draw_without_rendering()
    titles = [axes.title for axes in figure.axes]
    assert [title.get_text().replace("\n", " ") for title in titles[:2]] == [
        "domestic_other, clean lips",
        "transport_metro, clean lips",
    ]
    assert titles[0].get_text() == "domestic_other,\nclean lips"
    assert titles[3].get_text() == "domestic_other,\ndegraded lips"
    boxes = [title.get_window_extent() for title in titles]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    for row in (boxes[:3], boxes[3:]):
        for left, right in pairwise(row):
            assert right.x0 - left.x1 >= 0.1 * figure.dpi


def test_names_are_escaped(made_results: Make) -> None:
    table = made_results(
        {f"{WICKED}:auto": 0.0, "<script>alert(1)</script>:a$b_c": 1.0}, noises=[WICKED, "a_$b"]
    )
    table["mixture"] = table["mixture"] + WICKED
    table["settings"] = '{"a": "</td><script>"}'
    report = report_of(table)
    page = Page(report.page)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "b" not in {tag for tag, _ in page.elements}
    assert WICKED in page.text
    for own in report.tables:
        assert "<script>" not in own.latex()
        assert not re.search(r"(?<!\\)[#&](?!.*\\\\)", own.latex().split(r"\midrule")[1])


def test_export_writes_files_for_a_paper(made_results: Make, tmp_path: Path) -> None:
    written = report_of(made_results(SYSTEMS, noises=["cafe"], levels=[0.0])).export(tmp_path / "paper")
    names = {path.name for path in written}
    assert {"improvement.pdf", "overall.tex", "overall.md", "overall.csv", "differences.tex"} <= names
    assert names == {path.name for path in (tmp_path / "paper").iterdir()}
    assert (tmp_path / "paper" / "improvement.pdf").read_bytes().startswith(b"%PDF")


def test_worst_mixtures_have_players(made_results: Make, save: Callable[..., Path], tmp_path: Path) -> None:
    folder = save(tmp_path / "run", made_results(clips=1, noises=["cafe"]))
    place = folder / "worst"
    place.mkdir()
    entry = {"mixture": "s1/clip0 cafe -5 dB", "lips": "none", "model": "a-vae", "algorithm": "auto"}
    entry |= {"metric": "si_sdr", "improvement": -1.234}
    entries = []
    for k in range(2):
        files = {name: f"{k}_{name}.flac" for name in ("clean", "noisy", "enhanced")}
        for file in files.values():
            sf.write(place / file, 0.1 * np.random.default_rng(k).standard_normal(800), 16000)
        entries.append(entry | files)
    (place / "0_noisy.flac").unlink()
    sf.write(tmp_path / "secret.flac", np.zeros(100), 16000)
    entries[1]["clean"] = "../../secret.flac"
    (place / "worst.json").write_text(json.dumps(entries))
    page = Page(report_of(folder).page)
    players = [own for tag, own in page.elements if tag == "audio"]
    assert [own["aria-label"] for own in players] == [
        f"{name}, s1/clip0 cafe -5 dB, a-vae" for name in ("clean", "enhanced", "noisy", "enhanced")
    ]
    sound = base64.b64decode(str(players[0]["src"]).partition(",")[2])
    assert sound == (place / "0_clean.flac").read_bytes()
    assert "SI-SDR -1.23 dB" in page.text
    assert "2 sounds are missing or too large for the page." in page.text
    for text in ("{", "[1]", '[{"mixture": "m"}]'):
        (place / "worst.json").write_text(text)
        with pytest.raises(InputError, match=r"worst\.json: cannot be read"):
            report_of(folder)


def test_one_mixture(made_results: Make) -> None:
    report = report_of(made_results(speakers=1, clips=1, noises=["cafe"], levels=[0.0]))
    page = Page(report.page)
    assert "1 system, a-vae; 1 mixture; 1 speaker; noises: cafe; levels: 0 dB (broadband)." in page.text
    assert "n = 1 mixture a value" in page.text
    assert "No intervals: 1 clip cannot be resampled." in page.text
    assert "Differences to" not in page.text
    assert "[" not in named(report.tables, "overall").rows[0][2]


def test_means_of_few_speakers_are_said_to_lack_intervals(made_results: Make) -> None:
    table = made_results()
    report = report_of(table[(table["noise_type"] == "cafe") | table["speaker"].isin(["s0", "s1"])])
    by_noise = named(report.tables, "si_sdr-by-noise")
    assert ["[" in cell for cell in by_noise.rows[0][2:]] == [True, False]
    assert "from a bootstrap of 6 speakers. Means of fewer than 5 speakers have none." in by_noise.caption
    captions = {picture.name: picture.caption for picture in report.pictures}
    assert "fewer than 5" in captions["sdr-by-noise"]
    assert "fewer than 5" not in captions["improvement"]


def test_all_failed(made_results: Make, fail: Make) -> None:
    table = made_results(SYSTEMS, noises=["cafe"])
    report = report_of(fail(table, range(len(table)), reason=None))
    page = Page(report.page)
    assert "No mixture was enhanced; the reasons are listed below." in page.text
    assert "48 enhancements failed." in page.text
    assert "not recorded" in page.text
    assert report.pictures == []
    assert named(report.tables, "overall").rows == ()


def test_one_system_failed(made_results: Make, fail: Make) -> None:
    table = made_results(SYSTEMS, noises=["cafe"])
    report = report_of(fail(table, table.index[table["model"] == "av-vae"]))
    assert [row[1] for row in named(report.tables, "overall").rows] == ["a-vae"]
    assert "24 of 48 enhancements failed" in Page(report.page).text


def test_undefined_metric(made_results: Make) -> None:
    table = made_results(SYSTEMS, noises=["cafe"])
    table["enhanced_stoi"] = np.nan
    report = report_of(table)
    assert "STOI is undefined for 48 enhanced mixtures" in Page(report.page).text
    overall = named(report.tables, "overall")
    assert {row[overall.head.index("STOI")] for row in overall.rows} == {"–"}
    texts = [text.get_text() for text in report.pictures[0].figure.axes[2].texts]
    assert texts == ["undefined"]


def test_baseline_can_be_chosen(made_results: Make) -> None:
    own = outcomes(made_results(SYSTEMS, noises=["cafe"]))
    assert [row[1] for row in named(tables(summarized(own, "av-vae")), "differences").rows] == ["a-vae"]
    with pytest.raises(InputError, match="no system 'v-vae'"):
        summarized(own, "v-vae")


def test_systems_stand_in_the_order_asked_for(
    made_results: Make, save: Callable[..., Path], tmp_path: Path
) -> None:
    table = made_results({"vae-mm:auto": 0.0, "a-vae:auto": 0.0}, speakers=1, clips=1, noises=["cafe"])
    assert outcomes(save(tmp_path / "run", table)).systems == ["vae-mm", "a-vae"]


def test_unusable_folders_are_refused(made_results: Make, save: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        report_of(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no"):
        report_of(tmp_path)
    folder = save(tmp_path / "run", made_results(speakers=1, clips=1), format_version=99)
    with pytest.raises(InputError, match="has format version 99"):
        report_of(folder)
