"""Runs of training that are seeded, killed, damaged, resumed or asked for what cannot be."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from avse.data.corpora.base import Split, Utterance
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT
from avse.inference.svi.checkpoints import exclusive_run
from avse.inference.svi.training import TrainingSettings, read_history
from avse.zoo.pair import PairConfig, SpeechPair, load_folder
from avse.zoo.recipes import Recipe, run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites"),
]

RECIPE = Recipe(
    PairConfig("a-vae", {"latent_size": 3, "encoder": [8], "decoder": [8]}, FrontEnd(STFT(64, 32))),
    TrainingSettings(learning_rate=1e-2, max_epochs=3, seed=3),
    (),
    {"batch_size": 64},
    name="tiny",
)


def noise(seed: int) -> tuple[Any, int]:
    return np.random.default_rng(seed).normal(0, 0.1, 3200).astype(np.float32), 16000


@dataclass
class Noises:
    name: str = "noises"

    def utterances(self, split: Split) -> Sequence[Utterance]:
        first = 0 if split == "train" else 100
        return [Utterance(f"n-{k}", "anna", split, lambda k=k: noise(k)) for k in (first, first + 1)]


class Unreadable:
    """A corpus that must not be asked."""

    name = "noises"

    def utterances(self, split: Split) -> Sequence[Utterance]:
        raise AssertionError("the corpus was read")


def with_settings(**changes: Any) -> Recipe:
    return replace(RECIPE, settings=replace(RECIPE.settings, **changes))


def weights(pair: SpeechPair) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in pair.modules().state_dict().items()}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    run(RECIPE, [Noises()], tmp_path / "run", cache=tmp_path / "cache")
    return tmp_path / "run"


def test_equal_seeds_give_equal_weights(trained: Path, tmp_path: Path) -> None:
    """Whatever the state of the global generator, which is left as it is."""
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again, _ = run(RECIPE, [Noises()], tmp_path / "again", cache=tmp_path / "cache")
    assert torch.equal(before, torch.random.get_rng_state())
    other, _ = run(with_settings(seed=4), [Noises()], tmp_path / "other", cache=tmp_path / "cache")
    assert load_folder(trained / "pair").fingerprint() == again.fingerprint() != other.fingerprint()


def test_the_report_names_what_was_run(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text(encoding="utf-8"))
    pair = load_folder(trained / "pair")
    assert report["recipe"] == "tiny"
    assert report["corpora"] == [{"name": "noises"}]
    assert report["settings"]["seed"] == 3
    assert report["weights_sha256"] == pair.fingerprint()
    assert {"avse", "torch"} <= report["versions"].keys()
    assert [row["epoch"] for row in report["history"]] == [0, 1, 2]
    assert "| recipe | tiny |" in pair.card
    assert "| seed | 3 |" in pair.card
    assert 'datasets: ["noises"]' in pair.card


def test_a_finished_run_has_a_bound_when_it_is_resumed(trained: Path, tmp_path: Path) -> None:
    for keep in ("best", "last"):
        recipe, out = with_settings(keep=keep), tmp_path / keep
        _, first = run(recipe, [Noises()], out, cache=tmp_path / "cache")
        _, again = run(recipe, [Noises()], out, resume=True, cache=tmp_path / "cache")
        assert again.validation_elbo == pytest.approx(first.validation_elbo)
        assert again.history == first.history
        assert "NaN" not in (out / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_checkpoint_falls_back_to_the_last_whole_one(
    content: bytes | None, trained: Path, tmp_path: Path
) -> None:
    last = trained / "checkpoints" / "last.ckpt"
    before = load_folder(trained / "pair").fingerprint()
    last.write_bytes(last.read_bytes()[:1000] if content is None else content)
    with pytest.warns(UserWarning, match=r"resumed from .*best\.ckpt"):
        pair, report = run(RECIPE, [Noises()], trained, resume=True, cache=tmp_path / "cache")
    assert pair.fingerprint() == before
    assert [row["epoch"] for row in report.history] == [0, 1, 2]
    assert read_history(trained / "log" / "metrics.csv") == report.history


def test_no_whole_checkpoint_is_an_error(trained: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        (trained / "checkpoints" / name).write_bytes(b"")
    with pytest.raises(InputError, match="damaged checkpoint"):
        run(RECIPE, [Unreadable()], trained, resume=True)


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        (with_settings(seed=4), "settings"),
        (with_settings(max_epochs=9), "settings"),
        (replace(RECIPE, name="other"), "recipe"),
        (replace(RECIPE, data={"batch_size": 32}), "data"),
    ],
)
def test_another_run_is_not_resumed(recipe: Recipe, named: str, trained: Path) -> None:
    with pytest.raises(InputError, match=f"another {named}"):
        run(recipe, [Unreadable()], trained, resume=True)


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    with exclusive_run(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} is training"):
        run(RECIPE, [Unreadable()], tmp_path)
    with exclusive_run(tmp_path):
        pass


@pytest.mark.parametrize("device", ["foo", "gpu", "mps", "cuda:77"])
def test_devices_are_refused_before_the_corpus_is_read(device: str, tmp_path: Path) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(InputError, match="device"):
        run(RECIPE, [Unreadable()], tmp_path / "run", device=device)


@pytest.mark.parametrize(
    "settings", [{"max_epochs": 0}, {"max_epochs": -3}, {"seed": -1}, {"seed": 99999999999999999999}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError):
        TrainingSettings(**settings)  # type: ignore[arg-type]


def test_the_largest_seed_trains(tmp_path: Path) -> None:
    recipe = with_settings(seed=2**63 - 1, max_epochs=1)
    _, report = run(recipe, [Noises()], tmp_path / "run", cache=tmp_path / "cache")
    assert report.epochs == 1


# Through the command line --------------------------------------------------------------------------------

COMMAND = [sys.executable, "-c", "from avse.cli.app import main; main()", "train", "a-vae"]


def train_command(root: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    arguments = ["--corpus", "folder", "--root", root, "--out", out, "--epochs", "4", "--seed", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(root / "cache")}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


@pytest.mark.slow
def test_a_killed_run_agrees_with_an_uninterrupted_one(tmp_path: Path) -> None:
    """Killed by SIGKILL twice in its training and resumed, through the command line."""
    for split, count in (("train", 12), ("validation", 3)):
        for k in range(count):
            path = tmp_path / "corpus" / split / "s" / f"{k}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng((k, count))
            soundfile.write(path, 0.1 * rng.standard_normal(32_000), 16000)
    root = tmp_path / "corpus"
    whole = train_command(root, tmp_path / "whole")
    stdout, stderr = whole.communicate(timeout=300)
    assert whole.returncode == 0, stderr.decode()
    assert json.loads(stdout)["epochs"] == 4
    out, kills = tmp_path / "killed", 0
    for wait in (0.05, 0.5):
        process = train_command(root, out, *(["--resume"] if (out / "run.json").is_file() else []))
        while not (out / "run.json").is_file() and process.poll() is None:
            time.sleep(0.02)
        before = stamp(out)
        while stamp(out) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(wait)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate(timeout=60)
    assert kills > 0
    process = train_command(root, out, "--resume")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()
    ours, theirs = load_folder(out / "pair"), load_folder(tmp_path / "whole" / "pair")
    for name, tensor in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], tensor, rtol=1e-5, atol=1e-6)
    reports = [json.loads((each / "report.json").read_text()) for each in (out, tmp_path / "whole")]
    assert [row["epoch"] for row in reports[0]["history"]] == [0, 1, 2, 3]
    assert len(read_history(out / "log" / "metrics.csv")) == 4
    assert reports[0]["validation_elbo"] == pytest.approx(reports[1]["validation_elbo"], rel=1e-5)


def stamp(out: Path) -> int:
    """When the last checkpoint was written, ns; 0 before the first."""
    path = out / "checkpoints" / "last.ckpt"
    return path.stat().st_mtime_ns if path.is_file() else 0
