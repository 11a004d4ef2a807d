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
from avse.inference.presets import PRESETS
from avse.zoo.pair import SpeechPair, load_folder
from avse.zoo.recipes import RECIPES, PretrainedInit, run

CORPUS = SyntheticCorpus(speakers=3, sentences=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_trains_a_pair_that_enhances(name: str, tmp_path: Path, cache: Path) -> None:
    recipe = RECIPES[name]()
    recipe = replace(recipe, settings=replace(recipe.settings, max_epochs=1))
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
