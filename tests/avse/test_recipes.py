"""Every recipe trains a pair that can be saved, loaded and called."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import avse
from avse.data.corpora.synthetic import SyntheticCorpus
from avse.enhance import ALGORITHMS
from avse.pair import load_folder
from avse.recipes import RECIPES, run

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
    assert recipe.pair.algorithm in ALGORITHMS
    loaded = load_folder(tmp_path / "pair")
    assert replace(loaded.config, arguments={}) == replace(pair.config, arguments={})

    x = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    load_lips = CORPUS.utterances("test")[0].load_lips
    assert load_lips is not None
    enhancement = avse.enhance(x, 16000, video=load_lips(), model=loaded, algorithm="mcem")
    assert enhancement.speech.shape == x.shape
    assert (enhancement.lips is not None) == (recipe.pair.lips is not None)


def test_recipes_of_one_name_are_alike() -> None:
    """A model and the A-VAE it is compared with differ in what they see, not in how they listen."""
    assert RECIPES["av-vae"]().pair.front_end == RECIPES["a-vae-all-clips"]().pair.front_end
    assert RECIPES["av-vae-paper"]().pair.front_end == RECIPES["a-vae-paper"]().pair.front_end
