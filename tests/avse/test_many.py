"""Many recordings: each as if alone, in order, with failures told and the others done."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import avse
from avse.cli import app as cli
from avse.data.errors import InputError
from avse.data.folders import copies
from avse.many import SETTINGS

RATE = 16000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """a/one.wav (0.2 s), a/two.flac (0.3 s, 24 bits), b/one.wav (0.25 s), and a text that is no sound."""
    root = tmp_path / "corpus"
    for index, (name, seconds) in enumerate({"a/one.wav": 0.2, "a/two.flac": 0.3, "b/one.wav": 0.25}.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, noise(seconds, index), RATE, subtype="PCM_24" if path.suffix == ".flac" else "PCM_16")
    (root / "a" / "notes.txt").write_text("no sound")
    return root


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["avse", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def test_each_recording_is_enhanced_as_if_it_were_alone(tmp_path: Path) -> None:
    sounds = [noise(0.2), noise(0.35, 1).astype(np.float64), np.stack([noise(0.3, 2), noise(0.3, 3)])]
    fractions: list[float] = []
    found = list(avse.enhance_many(sounds, RATE, seed=3, progress=fractions.append))
    assert [outcome.status for outcome in found] == ["enhanced"] * 3
    assert fractions == [1 / 3, 2 / 3, 1.0]
    for x, outcome in zip(sounds, found, strict=True):
        assert outcome.source is x
        assert outcome.enhancement is not None
        np.testing.assert_array_equal(
            outcome.enhancement.speech, avse.enhance(x, RATE, seed=3).speech, strict=True
        )


def test_a_folder_is_mirrored_in_format_and_subfolders(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = list(avse.enhance_many(corpus, out=out))
    assert [outcome.output for outcome in found] == [
        out / "a" / "one.wav",
        out / "a" / "two.flac",
        out / "b" / "one.wav",
    ]
    assert sf.info(out / "a" / "two.flac").subtype == "PCM_24"
    for outcome in found:
        assert outcome.enhancement is None
        assert outcome.report is not None
        samples, rate = sf.read(outcome.source, dtype="float32")
        alone = avse.enhance(samples, rate).speech
        written, _ = sf.read(outcome.output, dtype="float32")
        np.testing.assert_allclose(written, alone, atol=2**-15)


def test_a_bad_file_does_not_stop_the_others_and_the_same_call_goes_on(corpus: Path, tmp_path: Path) -> None:
    bad, out = corpus / "a" / "two.flac", tmp_path / "out"
    whole = bad.read_bytes()
    bad.write_bytes(b"no sound")
    first = {outcome.source.name: outcome for outcome in avse.enhance_many(corpus / "a", out=out)}
    assert first["one.wav"].status == "enhanced"
    assert first["two.flac"].status == "failed"
    assert "two.flac" in (first["two.flac"].error or "")
    assert not (out / "two.flac").exists()
    bad.write_bytes(whole)
    before = (out / "one.wav").stat().st_mtime_ns
    again = {outcome.source.name: outcome.status for outcome in avse.enhance_many(corpus / "a", out=out)}
    assert again == {"one.wav": "skipped", "two.flac": "enhanced"}
    assert (out / "one.wav").stat().st_mtime_ns == before
    later = before + 10**9
    os.utime(corpus / "a" / "one.wav", ns=(later, later))  # it was recorded again
    statuses = [outcome.status for outcome in avse.enhance_many(corpus / "a", out=out)]
    assert statuses == ["enhanced", "skipped"]


def test_outputs_of_other_settings_are_refused(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(avse.enhance_many(corpus / "b", out=out))
    assert json.loads((out / SETTINGS).read_text())["seed"] == 0
    with pytest.raises(InputError, match="other settings"):
        avse.enhance_many(corpus / "b", out=out, seed=1)
    (out / SETTINGS).write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        avse.enhance_many(corpus / "b", out=out)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"model": "no-such-model"}, "no-such-model"),
        ({"algorithm": "no-such"}, "no-such"),
        ({"algorithm": 3}, "algorithm"),
        ({"seed": -1}, "seed"),
        ({"jobs": 0}, "jobs"),
        ({"device": "gpu"}, "gpu"),
    ],
)
def test_mistakes_are_found_before_any_work(settings: dict, word: str, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=word):
        avse.enhance_many(corpus, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_samples_need_a_rate_and_have_no_name() -> None:
    with pytest.raises(InputError, match="sample rate"):
        avse.enhance_many([noise(0.1)])
    with pytest.raises(InputError, match="no name"):
        avse.enhance_many([noise(0.1)], RATE, out="out")


def test_a_missing_file_is_an_outcome_without_a_folder(corpus: Path) -> None:
    found = list(avse.enhance_many([corpus / "absent.wav", corpus / "b"]))
    assert [outcome.status for outcome in found] == ["failed", "enhanced"]
    assert "does not exist" in (found[0].error or "")


def test_copies_of_folders_files_and_patterns(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def names(*sources: Path | str) -> list[str]:
        return [copy.output.relative_to(out).as_posix() for copy in copies(sources, out)]

    assert names(corpus) == ["a/one.wav", "a/two.flac", "b/one.wav"]
    assert names(corpus / "a" / "one.wav") == ["one.wav"]
    assert names(f"{corpus}/*/one.wav") == ["a/one.wav", "b/one.wav"]
    assert names(f"{corpus}/**/*.flac") == ["a/two.flac"]
    assert names(f"{corpus}/[b]") == ["b/one.wav"]
    assert names(corpus, corpus) == names(corpus)
    (corpus / "clip.mp4").write_bytes(b"a video")
    (corpus / ".hidden.wav").write_bytes(b"hidden")
    odd = corpus / "take[1].wav"
    odd.write_bytes(b"a sound whose name looks like a pattern")
    assert names(odd) == ["take[1].wav"]
    assert names(corpus)[-2:] == ["clip.wav", "take[1].wav"]


@pytest.mark.parametrize("pattern", ["", "**/*.wav", "*", "*/*.wav"])
def test_results_below_the_sources_are_no_sources(corpus: Path, pattern: str) -> None:
    """Whether a folder or a pattern names the sources, a second call goes on where the first one was."""
    out = corpus / "enhanced"
    (out / "a").mkdir(parents=True)
    (out / "a" / "one.wav").write_bytes(b"an earlier result")
    expected = {out / "a" / "one.wav", out / "a" / "two.flac", out / "b" / "one.wav"}
    if pattern.endswith(".wav"):
        expected.remove(out / "a" / "two.flac")
    assert {copy.output for copy in copies([corpus / pattern], out)} == expected


def test_a_pattern_that_leaves_its_folder_is_refused(corpus: Path) -> None:
    with pytest.raises(InputError, match="behind a wildcard"):
        copies([corpus / "*" / ".." / "*.wav"], corpus.parent / "out")


def test_files_of_unknown_origin_are_no_results(corpus: Path, tmp_path: Path) -> None:
    """A folder with copies of the originals, say: they are neither replaced nor taken for results."""
    out = tmp_path / "backup"
    (out / "a").mkdir(parents=True)
    (out / "a" / "one.wav").write_bytes(b"an original")
    with pytest.raises(InputError, match="does not say how it was made"):
        avse.enhance_many(corpus, out=out)
    assert (out / "a" / "one.wav").read_bytes() == b"an original"


def test_one_array_is_no_list_of_recordings() -> None:
    with pytest.raises(InputError, match="one array"):
        avse.enhance_many(np.zeros(16000), 16000)


@pytest.mark.parametrize(
    ("sources", "out", "word"),
    [
        (["a/one.wav", "b/one.wav"], "out", "same output"),
        (["a", "a/two.mp3"], "out", "same output"),
        (["."], ".", "both an input and an output"),
        (["a"], "../corpus/a", "both an input and an output"),
        (["a"], "linked", "both an input and an output"),
        (["b"], "hard", "both an input and an output"),
        (["absent.wav"], "out", "does not exist"),
        (["*.mp3"], "out", "no sound file"),
        (["empty"], "out", "no sound files"),
    ],
)
def test_plans_that_would_lose_a_file_are_refused(
    sources: list[str], out: str, word: str, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    Path("empty").mkdir()
    Path("linked").symlink_to("a")
    Path("hard").mkdir()
    os.link("b/one.wav", "hard/one.wav")
    Path("a/two.wav").write_bytes(b"a sound")
    Path("a/two.mp3").write_bytes(b"another")
    if "same output" not in word:
        Path("a/two.mp3").unlink()
    with pytest.raises(InputError, match=word):
        copies(sources, out)


def test_the_command_enhances_folders_and_sums_up(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (corpus / "a" / "two.flac").write_bytes(b"no sound")
    assert run(monkeypatch, "enhance", corpus, "--out", out) == cli.USER_ERROR
    printed = capfd.readouterr()
    assert printed.out.split() == [str(out / "a" / "one.wav"), str(out / "b" / "one.wav")]
    *_, count, failure = printed.err.strip().splitlines()
    assert count == "note: 1 of 3 recordings could not be enhanced:"
    assert failure.startswith(f"avse: {corpus / 'a' / 'two.flac'}: ")
    (corpus / "a" / "two.flac").unlink()
    assert run(monkeypatch, "enhance", f"{corpus}/*/*.wav", "--out", out) == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "2 of 2 recordings were skipped" in printed.err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "--out"),
        (["--out", "out", "--video", "v.mp4"], "--video"),
        (["--out", "out", "--json", "r.json"], "--json"),
        (["--out", "out", "--figure", "f.png"], "--figure"),
        (["--out", "out", "--jobs", "0"], "--jobs"),
        (["--out", "out", "--model", "none-such"], "none-such"),
        (["--out", "out", "b/one.wav"], "same output"),
        (["--out", "."], "both an input and an output"),
    ],
)
def test_the_command_refuses_in_one_line(
    options: list[str],
    word: str,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(corpus / "b")
    Path("b").mkdir()
    Path("one.wav").rename("b/one.wav")
    Path("one.wav").write_bytes(Path("b/one.wav").read_bytes())
    sources = ["one.wav", "b/one.wav"] if word == "same output" else ["."]
    assert run(monkeypatch, "enhance", *sources, *[o for o in options if o != "b/one.wav"]) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert word in line
    assert not Path("out").exists()


@pytest.mark.slow
def test_processes_give_what_one_gives(corpus: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for out, jobs in ((one, 1), (two, 2)):
        found = list(avse.enhance_many(corpus, out=out, jobs=jobs))
        assert [outcome.source.relative_to(corpus).as_posix() for outcome in found] == [
            "a/one.wav",
            "a/two.flac",
            "b/one.wav",
        ]
        assert {outcome.status for outcome in found} == {"enhanced"}
    for path in one.rglob("*.*"):
        if path.suffix in (".wav", ".flac"):
            first, second = (sf.read(root / path.relative_to(one))[0] for root in (one, two))
            np.testing.assert_allclose(first, second, atol=2**-14)
