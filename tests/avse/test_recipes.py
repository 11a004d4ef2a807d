"""Every recipe trains a pair that can be saved, loaded and called."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import avse
from avse import zoo
from avse.data.corpora.synthetic import SyntheticCorpus
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.sequences import SequenceDataModule
from avse.data.simulation import MixtureSimulator, SimulationDataModule
from avse.data.stft import STFT
from avse.data.visual_simulation import VisualSimulationDataModule
from avse.guides.visual import VisualGuide
from avse.inference.presets import PRESETS
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO, PriorMixedELBO
from avse.models.a_vae import StandardNormal
from avse.zoo.pair import SpeechPair, load_folder
from avse.zoo.recipes import RECIPES, PretrainedInit, papers_min_vae, run, without_corruption

CORPUS = SyntheticCorpus(speakers=3, sentences=1)
FRONT_END = FrontEnd(STFT(hop_length=256), "rms", high_pass=70.0)
SIMULATED = {
    "batch_size": 2,
    "epoch_batches": 2,
    "validation_batches": 1,
    "simulator": MixtureSimulator(FRONT_END, seconds=0.5, voices=2, pool=2, reuse=2),
}
"""An epoch of simulated recordings that takes a second."""
SMALL_EPOCHS = {
    SimulationDataModule: SIMULATED,
    VisualSimulationDataModule: {**SIMULATED, "max_utterances": 1},
    SequenceDataModule: {"batch_size": 4, "piece_frames": 16, "epoch_pieces": 8},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


LIKE_OTHERS = {
    *("a-vae-all-clips", "a-vae-paper", "av-vae-paper", "av-vae-standard-paper"),
    *("min-vae-v1-paper", "min-vae-v2-paper", "v-vae-paper", "vae-mm-paper"),
}
"""Recipes of an architecture and a loader that the quick tests have under another name."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LIKE_OTHERS else ()) for name in sorted(RECIPES)],
)
def test_recipe_trains_a_pair_that_enhances(name: str, tmp_path: Path, cache: Path) -> None:
    recipe = RECIPES[name]()
    small = SMALL_EPOCHS.get(recipe.loader, {})
    recipe = replace(recipe, settings=replace(recipe.settings, max_epochs=1), data={**recipe.data, **small})
    pair, report = run(recipe, [CORPUS], tmp_path, cache=cache)
    assert np.isfinite(report.validation_elbo)
    assert recipe.pair.algorithm in PRESETS
    loaded = load_folder(tmp_path / "pair")
    assert replace(loaded.config, arguments={}) == replace(pair.config, arguments={})

    x = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    load_lips = CORPUS.utterances("test")[0].load_lips
    assert load_lips is not None
    enhancement = avse.enhance(x, 16000, video=load_lips(), model=loaded, algorithm="mcem")
    assert enhancement.speech.shape == x.shape
    assert (enhancement.lips is not None) == (recipe.pair.lips is not None)


def test_what_does_not_learn_stays_as_it_begins(tmp_path: Path, cache: Path) -> None:
    recipe = RECIPES["vae-mm"]()
    recipe = replace(recipe, settings=replace(recipe.settings, max_epochs=1))
    pair, _ = run(recipe, [CORPUS], tmp_path, cache=cache)
    for alpha, name in ((1, "a-vae"), (0, "av-vae")):
        trained = zoo.load(name).modules()
        parts = pair.model.components[alpha], pair.guide.branches[alpha]
        for part, before in zip(parts, (trained["model"], trained["guide"]), strict=True):
            assert part.state_dict().keys() == before.state_dict().keys()
            for now, then in zip(part.state_dict().values(), before.state_dict().values(), strict=True):
                assert torch.equal(now, then)
    assert pair.model.corruption_classifier.logit.weight.abs().min() > 0


def test_the_encoder_of_lips_alone_learns_in_a_mixture_of_three(tmp_path: Path, cache: Path) -> None:
    recipe = RECIPES["a-v-av"]()
    begun = SpeechPair(recipe.pair)
    for start in recipe.pretrained:
        start(begun)
    before = begun.modules().state_dict()
    recipe = replace(recipe, settings=replace(recipe.settings, max_epochs=1))
    pair, _ = run(recipe, [CORPUS], tmp_path, cache=cache)
    after = pair.modules().state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("guide.branches.1.") for name in changed)
    for alpha, name in enumerate(("av-vae", "v-vae", "a-vae")):
        state = zoo.load(name).model.state_dict()
        for key, tensor in pair.model.component_models()[alpha].state_dict().items():
            assert torch.equal(tensor, state[key])
    classifier = zoo.load("vae-mm").model.corruption_classifier.state_dict()
    for key, tensor in pair.model.corruption_classifier.state_dict().items():
        assert torch.equal(tensor, classifier[key])


def test_recipes_of_one_name_are_alike() -> None:
    """A model and the A-VAE it is compared with differ in what they see, not in how they listen."""
    assert RECIPES["av-vae"]().pair.front_end == RECIPES["a-vae-all-clips"]().pair.front_end
    assert RECIPES["av-vae-paper"]().pair.front_end == RECIPES["a-vae-paper"]().pair.front_end


@pytest.mark.parametrize("version", [1, 2])
def test_min_vae_begins_as_the_trained_parts(version: int) -> None:
    recipe = RECIPES[f"min-vae-v{version}"]()
    pair = SpeechPair(recipe.pair)
    for start in recipe.pretrained:
        start(pair)
    modules = pair.modules()
    for start in recipe.pretrained:
        source = zoo.load(start.pair).modules()
        for name, new in start.parts.items():
            expected = source.get_submodule(name).state_dict()
            found = modules.get_submodule(new).state_dict()
            assert found.keys() == expected.keys()
            for key, tensor in expected.items():
                assert torch.equal(found[key], tensor)
    if version == 2:  # one trunk for decoder and encoder, as in the model it comes from
        assert pair.model.lips is pair.guide.branch(0).lips


def test_a_start_that_does_not_fit_is_named() -> None:
    pair = SpeechPair(RECIPES["a-vae-paper"]().pair)
    for parts in ({"model.decoder": "model.decoder"}, {"model.ears": "model.decoder"}):
        with pytest.raises(InputError, match=f"a-vae: its {next(iter(parts))} does not fit model.decoder"):
            PretrainedInit("a-vae", parts)(pair)
    with pytest.raises(InputError, match="neither a shipped model"):
        PretrainedInit("nobody", {})(pair)


# The papers' settings ------------------------------------------------------------------------------------

PAPERS = {
    "a-vae-paper": "paper",
    "v-vae-paper": "paper",
    "av-vae-paper": "paper",
    "av-vae-standard-paper": "paper",
    "vae-mm-paper": "paper-vem",
    "min-vae-v1-paper": "paper-vem",
    "min-vae-v2-paper": "paper-vem",
}


def linear_layers(module: torch.nn.Module) -> set[tuple[int, int]]:
    """(in, out) of every linear map."""
    layers = (part for part in module.modules() if isinstance(part, torch.nn.Linear))
    return {(layer.in_features, layer.out_features) for layer in layers}


@pytest.mark.parametrize("name", PAPERS)
def test_papers_pairs_have_the_papers_sizes_and_algorithm(name: str) -> None:
    """513-128-32 and 32-128-513 for the sound, 4489-512-128 for the lips, and nothing else."""
    assert set(PAPERS) == {recipe for recipe in RECIPES if recipe.endswith("paper")}
    recipe = RECIPES[name]()
    assert recipe.pair.algorithm == PAPERS[name]
    assert recipe.settings.learning_rate == 1e-4
    assert recipe.data["batch_size"] == 128
    pair = SpeechPair(recipe.pair)
    audio, lips = {(513, 128), (128, 32), (32, 128), (128, 513)}, {(4489, 512), (512, 128)}
    found = linear_layers(pair.modules())
    if name == "a-vae-paper":
        assert found == audio
    else:
        assert lips <= found <= audio | lips | {(128, 128)}  # of embeddings, and of the prior network
        assert {(32, 128), (128, 513)} <= found


def test_papers_av_vae_with_a_standard_normal_prior() -> None:
    recipe = RECIPES["av-vae-standard-paper"]()
    pair = SpeechPair(recipe.pair)
    assert isinstance(pair.model.prior, StandardNormal)
    assert recipe.objective(pair) is None  # the evidence lower bound
    assert not any("prior" in name for name, _ in pair.model.named_parameters())


def test_components_of_the_papers_vae_mm_train_as_if_apart() -> None:
    """The objective is the sum of theirs at the same draws, and no gradient of one reaches the other."""
    recipe = RECIPES["vae-mm-paper"]()
    pair = SpeechPair(recipe.pair)
    objective = recipe.objective(pair)
    assert objective is not None
    generator = torch.Generator().manual_seed(0)
    size = recipe.pair.lips.size  # type: ignore[union-attr]
    batch = {
        "power": torch.rand(4, 513, generator=generator),
        "visual": torch.rand(4, size, generator=generator),
    }
    torch.manual_seed(0)
    loss = objective.differentiable_loss(pair.model, pair.guide, **batch)
    first, second = pair.model.first, pair.model.second
    torch.manual_seed(0)
    heard = AnalyticKLTraceEnumELBO(max_plate_nesting=1).differentiable_loss(
        first, pair.guide.branch(1), **batch
    )
    prior = VisualGuide(second.lips, second.prior)
    seen = PriorMixedELBO(prior).differentiable_loss(second, pair.guide.branch(0), **batch)
    torch.testing.assert_close(loss, heard + seen)
    for part, other in ((first, seen), (second, heard)):
        gradients = torch.autograd.grad(other, [*part.parameters()], allow_unused=True, retain_graph=True)
        assert all(gradient is None for gradient in gradients)
    objective.kl_weight = 0.0
    assert objective.kl_weight == 0.0
    torch.manual_seed(0)
    assert objective.differentiable_loss(pair.model, pair.guide, **batch) < loss
    assert float(pair.model.pi) == 0.5


@pytest.mark.parametrize("version", [1, 2])
def test_papers_min_vae_begins_as_trained_pairs(version: int, tmp_path: Path) -> None:
    names = "a-vae-paper", "v-vae-paper" if version == 1 else "av-vae-paper"
    for name in names:
        torch.manual_seed(len(name))
        SpeechPair(RECIPES[name]().pair).save_pretrained(tmp_path / name)
    recipe = papers_min_vae(version, *(str(tmp_path / name) for name in names))
    pair = SpeechPair(recipe.pair)
    audio, visual = (load_folder(tmp_path / name).modules() for name in names)
    for start in recipe.pretrained:
        start(pair)
    starts = [
        (pair.guide.branch(1).encoder, audio["guide"].encoder),
        (pair.model.decoder, visual["model"].decoder),
    ]
    if version == 2:
        starts += [(pair.model.lips, visual["model"].lips)]
        starts += [(pair.guide.branch(0).network.network, visual["model"].prior.network)]
    else:
        starts += [(pair.guide.branch(0).network, visual["guide"].network)]
    for new, old in starts:
        for now, then in zip(new.state_dict().values(), old.state_dict().values(), strict=True):
            assert torch.equal(now, then)
    assert RECIPES[f"min-vae-v{version}-paper"]().pretrained == ()
    assert recipe.settings.max_epochs == 100


@pytest.mark.parametrize("name", ["min-vae-v1", "min-vae-v2", "min-vae-v1-paper", "av-vae"])
def test_recipes_with_and_without_corrupted_sound(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.corruption is not None
    clean = without_corruption(recipe)
    assert clean.corruption is None
    assert replace(clean, corruption=recipe.corruption) == recipe
    if name.startswith("min-vae"):
        assert recipe.corruption.share == pytest.approx(1 / 3)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="clean sound already"):
        without_corruption(clean)
