"""Saving and loading of pairs: exact to float16, offline, and clear about what is damaged."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from avse import zoo
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.front_end import LipFrontEnd
from avse.data.stft import STFT
from avse.inference.svi.audio_path import FrozenAudioPath
from avse.inference.svi.elbo import PriorMixedELBO
from avse.models.networks.lips import LipTrunk
from avse.models.networks.spectrum import RawPower
from avse.zoo.migration import FORMAT_VERSION
from avse.zoo.pair import CONFIG, WEIGHTS, PairConfig, SpeechPair, load_folder
from avse.zoo.recipes import RECIPES


@pytest.fixture
def folder(tiny_pair: SpeechPair, tmp_path: Path) -> Path:
    tiny_pair.model.fit_scales(torch.rand(50, 33))
    tiny_pair.guide.fit_scales(torch.rand(50, 33))
    tiny_pair.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def plain(config: PairConfig) -> Any:
    """As in config.json, where a tuple is a list."""
    return json.loads(json.dumps(config.to_dict()))


LOADERS = [load_folder, zoo.load, lambda folder: zoo.load(str(folder)), SpeechPair.from_pretrained]


@pytest.mark.parametrize("load", LOADERS)
def test_round_trip(load: Callable[[Path], SpeechPair], tiny_pair: SpeechPair, folder: Path) -> None:
    pair = load(folder)
    assert plain(pair.config) == plain(tiny_pair.config)
    assert pair.stft == STFT(64, 32)
    assert pair.card.endswith(tiny_pair.card)
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


def test_mixture_of_three_models_round_trip(tmp_path: Path) -> None:
    """Every argument in config.json, pi among them, and the same log joint to the precision of float16."""
    lips, small = LipFrontEnd(side=4, instants=1), {"latent_size": 2, "decoder": [6], "encoder": [6]}
    arguments = {
        "first": small,
        "second": {**small, "embedding_size": 4},
        "third": {**small, "embedding_size": 4},
        "pi": [0.5, 0.25, 0.25],
        "corruption_embedding_size": 3,
    }
    pair = SpeechPair(PairConfig("a-v-av", arguments, FrontEnd(STFT(16, 8)), lips, "mcem-mixture"))
    pair.modules().eval()
    pair.save_pretrained(tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["arguments"]["pi"] == [0.5, 0.25, 0.25]
    loaded = load_folder(tmp_path)
    assert plain(loaded.config) == plain(pair.config)
    assert loaded.model.pi.tolist() == [0.5, 0.25, 0.25]
    z, visual, power = torch.randn(5, 2), torch.rand(5, lips.size), torch.rand(5, 9)
    for ours, theirs in zip(loaded.model.given(visual)(z), pair.model.given(visual)(z), strict=True):
        assert ours.shape[0] == 3
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)
    for alpha in range(3):
        torch.testing.assert_close(
            *(one.guide.branch(alpha).posterior(power, visual).mean for one in (loaded, pair)),
            rtol=0,
            atol=0.01,
        )


@pytest.mark.parametrize(
    ("pi", "problem"),
    [
        ([0.5, 0.5], "give 3 probabilities"),
        ([0.5, 0.3, 0.1], "sum to 0.9"),
        ([0.5, 0.3, 1.2], "must be a number from 0 to 1"),
        (0.5, "must be a list of numbers"),
        (["a", "b", "c"], "must be a number"),
    ],
)
def test_wrong_probabilities_of_three_models_are_named(pi: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        SpeechPair(PairConfig("a-v-av", {"pi": pi}, FrontEnd(STFT(16, 8)), LipFrontEnd(side=4, instants=1)))


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
    edit(
        folder,
        front_end={
            "stft": {"window_length": 128, "hop_length": 32, "sample_rate": 16000},
            "level": "rms",
            "high_pass": 0.0,
        },
    )
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
        visual = None if pair.config.lips is None else torch.rand(3, pair.config.lips.size)
        z = pair.guide.posterior(power, visual).mean
        log_prior, log_variance = pair.model.given(visual)(z)
        assert log_variance.shape == (*log_prior.shape, pair.stft.bins)
        assert all(t.isfinite().all() for t in pair.modules().state_dict().values())


# Pairs that look at lips ---------------------------------------------------------------------------------

LIPS = LipFrontEnd(side=5, instants=3, step=0.03)
SMALL = {"latent_size": 3, "embedding_size": 4, "encoder": [8], "decoder": [8]}
SEEING = {
    "v-vae": ("v-vae", {"trunk": "shared"}),
    "v-vae-papers": ("v-vae", {"trunk": "papers"}),
    "tied": ("av-vae", {"tied": True}),
    "standard": ("av-vae", {"tied": True, "prior": "standard"}),
    "untied": ("av-vae", {"tied": False, "trunk": "papers"}),
}
OWNERS = {
    "v-vae": {"guide"},
    "v-vae-papers": {"guide"},
    "tied": {"model"},
    "standard": {"model"},
    "untied": {"model", "guide"},
}
"""Under whose names the trunks are saved."""


def seeing_pair(name: str) -> SpeechPair:
    """Untrained, with scales and an embedding of unseen lips that are not those of every new pair."""
    architecture, arguments = SEEING[name]
    pair = SpeechPair(PairConfig(architecture, {**SMALL, **arguments}, FrontEnd(STFT(64, 32)), LIPS))
    for part in (pair.model, pair.guide):
        part.fit_scales(torch.rand(50, 33))
    for trunk in trunks(pair):
        torch.nn.init.normal_(trunk.missing_embedding)
    return pair


def trunks(pair: SpeechPair) -> set[LipTrunk]:
    return {part for part in pair.modules().modules() if isinstance(part, LipTrunk)}


def answers(pair: SpeechPair) -> list[torch.Tensor]:
    """What a pair makes of fixed sound, lips and z; two frames of six are not seen."""
    generator = torch.Generator().manual_seed(1)
    power, z = torch.rand(6, 33, generator=generator), torch.randn(6, 3, generator=generator)
    seen = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])[:, None]
    visual = torch.cat([torch.randn(6, LIPS.size - 1, generator=generator) * seen, seen], 1)
    q = pair.guide.posterior(power, visual)
    return [part.detach() for part in (q.mean, q.variance, *pair.model.given(visual)(z))]


@pytest.mark.parametrize(("tied", "prior"), [(True, "network"), (False, "network"), (True, "standard")])
def test_tied_trunks_are_one(tied: bool, prior: str) -> None:
    """One set of parameters, or two: a change of the model's trunk is a change of the guide's, or not."""
    config = PairConfig("av-vae", {**SMALL, "tied": tied, "prior": prior}, FrontEnd(STFT(64, 32)), LIPS)
    pair = SpeechPair(config)
    model, guide = (list(part.lips.parameters()) for part in (pair.model, pair.guide))  # type: ignore[union-attr, operator]
    assert [p.shape for p in model] == [p.shape for p in guide]
    assert all((one is other) == tied for one, other in zip(model, guide, strict=True))
    assert len(trunks(pair)) == (1 if tied else 2)
    pair.modules().eval()
    before = answers(pair)[0]
    with torch.no_grad():
        for parameter in model:
            parameter.add_(1)
    assert torch.equal(answers(pair)[0], before) == (not tied)


@pytest.mark.parametrize("load", [load_folder, SpeechPair.from_pretrained])
@pytest.mark.parametrize("name", SEEING)
def test_round_trip_with_lips(name: str, load: Callable[[Path], SpeechPair], tmp_path: Path) -> None:
    """Weights rounded to float16 beforehand come back with the same answers, to the bit."""
    pair = seeing_pair(name)
    pair.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert plain(loaded.config) == plain(pair.config)
    assert loaded.config.lips == LIPS
    pair.modules().eval().requires_grad_(False)
    exact = answers(pair)
    with torch.no_grad():
        for tensor in pair.modules().state_dict().values():
            tensor.copy_(tensor.half())
    for ours, rounded, theirs in zip(answers(loaded), answers(pair), exact, strict=True):
        assert torch.equal(ours, rounded)
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
    assert len(trunks(loaded)) == len(trunks(pair))
    assert not any(part.training for half in (loaded.model, loaded.guide) for part in half.modules())
    assert not any(p.requires_grad for p in loaded.modules().parameters())


@pytest.mark.parametrize("name", SEEING)
def test_a_shared_tensor_is_saved_once(name: str, tmp_path: Path) -> None:
    pair = seeing_pair(name)
    pair.save_pretrained(tmp_path)
    saved = load_file(tmp_path / WEIGHTS)
    state = [*pair.modules().parameters(), *(b for b in pair.modules().buffers() if b.shape == (33,))]
    assert sum(t.numel() for t in saved.values()) == sum(t.numel() for t in state)
    owners = {key.split(".")[0] for key in saved if ".lips." in key}
    assert owners == OWNERS[name]
    load_folder(tmp_path).save_pretrained(tmp_path / "again")
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "again" / WEIGHTS).read_bytes()
    assert (tmp_path / CONFIG).read_bytes() == (tmp_path / "again" / CONFIG).read_bytes()


@pytest.mark.parametrize("name", SEEING)
def test_every_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    seeing_pair(name).save_pretrained(tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    for missing in whole:
        save_file({key: t for key, t in whole.items() if key != missing}, tmp_path / WEIGHTS)
        with pytest.raises(InputError, match=f"tensor {missing} is missing"):
            load_folder(tmp_path)


@pytest.mark.parametrize(
    ("saved", "claimed", "problem"),
    [("tied", False, r"guide\.lips.* is missing"), ("untied", True, r"guide\.lips.* does not belong")],
)
def test_tied_weights_are_not_taken_for_untied(
    saved: str, claimed: bool, problem: str, tmp_path: Path
) -> None:
    pair = seeing_pair(saved)
    pair.save_pretrained(tmp_path)
    edit(tmp_path, arguments={**pair.config.completed().arguments, "tied": claimed})
    with pytest.raises(InputError, match=problem):
        load_folder(tmp_path)


def test_a_config_from_before_the_lips_loads(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    assert config.pop("lips") is None
    assert config.pop("format_version") == FORMAT_VERSION
    (folder / CONFIG).write_text(json.dumps(config))
    assert load_folder(folder).config.lips is None


def test_settings_of_pixels_under_their_version_2_names_are_loaded(tmp_path: Path) -> None:
    architecture, arguments = SEEING["v-vae"]
    pair = SpeechPair(PairConfig(architecture, {**SMALL, **arguments}, FrontEnd(STFT(64, 32)), LIPS))
    pair.save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    config["lips"] = {
        "side": 5,
        "pictures": config["lips"].pop("instants"),
        "spacing": config["lips"].pop("step"),
        "normalised": True,
    }
    (tmp_path / CONFIG).write_text(json.dumps({**config, "format_version": 2}))
    assert load_folder(tmp_path).config.lips == LIPS
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match="pictures"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["a-vae-grid", "vae-mm"])
def test_a_version_3_config_has_no_context_guide(name: str) -> None:
    config = json.loads((zoo.shipped()[name] / CONFIG).read_text())
    own = config["arguments"]["first"] if name == "vae-mm" else config["arguments"]
    for argument in ("context_channels", "context_dilations"):
        del own[argument]
    migrated = PairConfig.from_dict({**config, "format_version": 3}).arguments
    assert (migrated["first"] if name == "vae-mm" else migrated)["context_channels"] == 0
    if name != "vae-mm":
        with pytest.raises(InputError, match="context_channels"):
            PairConfig.from_dict(config)


def test_a_version_4_config_has_no_refinement_by_lips() -> None:
    config = json.loads((zoo.shipped()["vae-mm"] / CONFIG).read_text())
    refinement = {name: value for name, value in config["arguments"].items() if name.startswith("refinement")}
    kept = {name: value for name, value in config["arguments"].items() if name not in refinement}
    assert len(refinement) == 3
    migrated = PairConfig.from_dict({**config, "arguments": kept, "format_version": 4}).arguments
    assert migrated["refinement_channels"] == 0
    assert not migrated["refinement_dilations"]
    with pytest.raises(InputError, match="refinement_channels"):
        PairConfig.from_dict({**config, "arguments": kept})


@pytest.mark.parametrize(("channels", "dilations"), [(0, [1]), (8, []), (8, [0]), (8, [5000]), (-1, [])])
def test_a_context_guide_of_no_sense_is_refused(channels: int, dilations: list[int]) -> None:
    arguments = {"context_channels": channels, "context_dilations": dilations}
    with pytest.raises(InputError, match="context_"):
        SpeechPair(PairConfig("a-vae", arguments, FrontEnd()))


@pytest.mark.parametrize(
    "lips", [None, {}, {"side": 5}, {"side": 0}, {"instants": 2}, {"step": -1}, {"colour": "blue"}, [5], 5]
)
def test_lips_that_do_not_fit_are_refused(lips: object, tmp_path: Path) -> None:
    """Missing, of another size than the weights, or senseless."""
    seeing_pair("tied").save_pretrained(tmp_path)
    edit(tmp_path, lips=lips)
    with pytest.raises(InputError) as error:
        load_folder(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_lips_for_a_pair_that_only_listens_are_refused(folder: Path) -> None:
    edit(folder, lips=asdict(LIPS))
    with pytest.raises(InputError, match="a-vae takes none"):
        load_folder(folder)


# The nets of the papers ----------------------------------------------------------------------------------


def chain(module: Any) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers, in order."""
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, torch.nn.Linear)]


def activations(module: Any) -> set[type]:
    return {type(m) for m in module.modules()} & {torch.nn.ReLU, torch.nn.Tanh, torch.nn.SiLU, torch.nn.ELU}


TRUNK = [(4489, 512), (512, 128)]


def papers_pair(name: str) -> Any:
    config = RECIPES[name]().pair
    assert config.lips == LipFrontEnd(side=67, instants=1, normalised=False)
    assert config.lips.size == 4489 + 1
    assert config.front_end.stft.bins == 513
    pair = SpeechPair(config)
    assert not any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in pair.modules().modules())
    return pair


def test_the_papers_v_vae() -> None:
    """Trunk 4489-512-128, 32 latents, decoder 32-128-513."""
    pair = papers_pair("v-vae-paper")
    assert chain(pair.guide.lips) == TRUNK
    assert activations(pair.guide.lips) == {torch.nn.ReLU}
    assert chain(pair.guide.network)[0][0] == 128
    assert chain(pair.guide.network)[-2:] == [(128, 32), (128, 32)]
    assert chain(pair.model.decoder) == [(32, 128), (128, 513)]
    assert activations(pair.model.decoder) == {torch.nn.Tanh}


def test_the_papers_av_vae() -> None:
    """One trunk; encoder 513 and 128 to 128, decoder 32 and 128 to 128, prior network 128-128-32."""
    pair = papers_pair("av-vae-paper")
    assert pair.model.lips is pair.guide.lips
    assert chain(pair.model.lips) == TRUNK
    assert activations(pair.model.lips) == {torch.nn.ReLU}
    assert chain(pair.guide.encoder) == [(513, 128), (128, 128), (128, 32), (128, 32)]
    assert chain(pair.model.decoder) == [(32, 128), (128, 128), (128, 513)]
    assert chain(pair.model.prior) == [(128, 128), (128, 32), (128, 32)]
    assert activations(pair.guide.encoder) == activations(pair.model.decoder) == {torch.nn.Tanh}
    assert activations(pair.model.prior) == {torch.nn.ReLU}
    assert isinstance(pair.guide.features, RawPower)
    recipe = RECIPES["av-vae-paper"]()
    objective = recipe.objective(pair)
    assert isinstance(objective, PriorMixedELBO)
    assert objective.prior_weight == 0.1
    (callback,) = recipe.callbacks
    assert isinstance(callback, FrozenAudioPath)
    assert callback.probability == 0.2
    settings = recipe.settings
    assert (settings.learning_rate, settings.annealed, settings.weight_decay) == (1e-4, False, 0.0)
    assert (settings.max_epochs, settings.patience, recipe.data["batch_size"]) == (200, 20, 128)
