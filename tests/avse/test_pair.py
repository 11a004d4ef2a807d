"""Saving and loading of pairs: exact to float16, offline, and clear about what is damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from avse import zoo
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT
from avse.pair import CONFIG, WEIGHTS, PairConfig, SpeechPair, load_folder


@pytest.fixture
def folder(tiny_pair: SpeechPair, tmp_path: Path) -> Path:
    tiny_pair.model.fit_scales(torch.rand(50, 33))
    tiny_pair.guide.fit_scales(torch.rand(50, 33))
    tiny_pair.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


LOADERS = [load_folder, zoo.load, lambda folder: zoo.load(str(folder)), SpeechPair.from_pretrained]


@pytest.mark.parametrize("load", LOADERS)
def test_round_trip(load: Callable[[Path], SpeechPair], tiny_pair: SpeechPair, folder: Path) -> None:
    pair = load(folder)
    assert pair.config == tiny_pair.config
    assert pair.stft == STFT(64, 32)
    assert pair.card == tiny_pair.card
    before, after = tiny_pair.modules().state_dict(), pair.modules().state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name].half().float()), name
        torch.testing.assert_close(tensor, before[name], rtol=2**-11, atol=1e-7)
    assert not any(module.training for module in (pair.model, pair.guide))
    assert not any(p.requires_grad for p in pair.modules().parameters())
    power = torch.rand(4, 33)
    z = pair.guide.posterior(power).mean
    torch.testing.assert_close(z, tiny_pair.guide.posterior(power).mean, rtol=0, atol=0.01)


def test_saved_again_nothing_changes(folder: Path, tmp_path: Path) -> None:
    load_folder(folder).save_pretrained(tmp_path / "again")
    for name in (CONFIG, WEIGHTS, "README.md"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert all(t.dtype == torch.float16 for t in load_file(folder / WEIGHTS).values())


def test_no_network_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert isinstance(SpeechPair.from_pretrained(str(folder)), SpeechPair)
    assert isinstance(zoo.load(folder), SpeechPair)


FIRST = "guide.encoder.log_variance.bias"


@pytest.mark.parametrize("load", [load_folder, SpeechPair.from_pretrained])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda tensors: tensors.pop(FIRST), f"{FIRST} is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra does not belong"),
        (lambda tensors: tensors.update({FIRST: torch.zeros(7)}), f"{FIRST} has another shape"),
    ],
)
def test_damaged_tensors_are_named(
    damage: Callable[[dict[str, torch.Tensor]], object],
    problem: str,
    load: Callable[[Path], SpeechPair],
    folder: Path,
) -> None:
    tensors = load_file(folder / WEIGHTS)
    damage(tensors)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(InputError, match=problem) as error:
        load(folder)
    assert str(folder / WEIGHTS) in str(error.value)


@pytest.mark.parametrize("load", [load_folder, SpeechPair.from_pretrained])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("content", [None, b"", b"{damaged", b"[]", b"null", b"\xff\xfe\x00"])
def test_damaged_files_are_named(
    content: bytes | None, name: str, load: Callable[[Path], SpeechPair], folder: Path
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        load(folder)
    assert str(folder / name) in str(error.value)


@pytest.mark.parametrize("load", [load_folder, SpeechPair.from_pretrained])
@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "unheard-of"},
        {"architecture": None},
        {"arguments": {"colour": "blue"}},
        {"arguments": {"activation": "unheard-of"}},
        {"arguments": {"latent_size": "many"}},
        {"arguments": None},
        {"front_end": None},
        {"front_end": {"stft": {"hop_length": "long"}}},
        {"front_end": {"stft": {"hop_length": 0}}},
        {"front_end": {"stft": {"colour": "blue"}}},
        {"front_end": {"stft": {}, "level": "loud"}},
    ],
)
def test_senseless_settings_are_refused(
    changes: dict[str, Any], load: Callable[[Path], SpeechPair], folder: Path
) -> None:
    edit(folder, **changes)
    with pytest.raises(InputError) as error:
        load(folder)
    assert str(folder / CONFIG) in str(error.value)


def test_settings_that_do_not_fit_the_weights_are_refused(folder: Path) -> None:
    edit(folder, front_end={"stft": {"window_length": 128, "hop_length": 32}})
    with pytest.raises(InputError, match="another shape"):
        load_folder(folder)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing-here: neither a shipped model"):
        zoo.load("nothing-here")
    with pytest.raises(InputError, match="unknown architecture"):
        SpeechPair(PairConfig("unheard-of", {}, FrontEnd()))


def test_loading_leaves_the_random_state_alone(folder: Path) -> None:
    before = torch.random.get_rng_state()
    load_folder(folder)
    assert torch.equal(before, torch.random.get_rng_state())


def test_shipped_pairs_load() -> None:
    for name in zoo.shipped():
        pair = zoo.load(name)
        power = torch.rand(3, pair.stft.bins)
        z = pair.guide.posterior(power).mean
        log_prior, log_variance = pair.model.evaluate(z)
        assert log_variance.shape == (*log_prior.shape, pair.stft.bins)
        assert all(t.isfinite().all() for t in pair.modules().state_dict().values())
