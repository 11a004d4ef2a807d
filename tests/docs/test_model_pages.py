"""The pages of docs/models: one form, names of the code that exist, diagrams of the models as they are."""

import importlib
import inspect
import pkgutil
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro import poutine

import avse
import avse.guides
import avse.models
import avse.models.networks
from avse.models.linear_gaussian import LinearGaussian
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.switching_vae import SwitchingVAE
from avse.zoo import architectures

FOLDER = Path(__file__).parents[2] / "docs" / "models"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md") if path.stem != "index"}
SECTIONS = [
    "Advantages",
    "Limitations",
    "Generative process",
    "Symbols",
    "Guide",
    "Training objective",
    "Inference",
    "Tasks",
    "Results",
    "References",
]
SYMBOLS = re.compile(r"^## Symbols\n(.*?)^## ", re.DOTALL | re.MULTILINE)
DIAGRAMS = runpy.run_path(str(FOLDER.parent / "make_plate_diagrams.py"))
PROGRAMS: dict[str, Any] = DIAGRAMS["programs"]()


def _shipped(name: str) -> dict[str, Any]:
    pair = avse.load(name)
    return {"model": pair.model, "guide": pair.guide, "size": 513, "lips": pair.config.lips}


def _linear_gaussian() -> dict[str, Any]:
    model = LinearGaussian(torch.ones(4, 2), torch.zeros(4), torch.tensor(1.0))
    return {"model": model, "size": 4, "lips": None}


def _temporal() -> dict[str, Any]:
    model, guide = architectures.dkf(4, 2, 3, (3,), (3,))
    recurrent, _ = architectures.rvae(4, 2, "dilated", 3, (1,), 3, (1,))
    parts = [architectures.a_vae(4, 2, (3,), (3,))[0] for _ in range(2)]
    named = {"recurrent": recurrent, "switching": SwitchingVAE(*parts)}
    return {"model": model, "guide": guide, **named, "size": 4, "lips": None}


def _nmf_noise() -> dict[str, Any]:
    speech, _ = architectures.a_vae(4, 2, (3,), (3,))
    noise = NMFNoise(torch.ones(4, 2), torch.ones(2, 3), torch.ones(3))
    return {"model": NoisySpeech(speech, noise), "noise": noise, "size": 4, "lips": None}


OBJECTS: dict[str, Callable[[], dict[str, Any]]] = {
    "linear_gaussian": _linear_gaussian,
    "a_vae": lambda: _shipped("a-vae"),
    "v_vae": lambda: _shipped("v-vae"),
    "av_vae": lambda: _shipped("av-vae"),
    "vae_mm": lambda: _shipped("vae-mm"),
    "min_vae": lambda: _shipped("min-vae-v2"),
    "temporal": _temporal,
    "nmf_noise": _nmf_noise,
}


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Everything that is defined in the modules of models and guides, and in two of inference."""
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for package in (avse.models, avse.models.networks, avse.guides)
        for found in pkgutil.iter_modules(package.__path__)
    ]
    modules += [importlib.import_module(f"avse.inference.{name}") for name in ("em.m_steps", "svi.elbo")]
    return {name for module in modules for name in vars(module)}


def test_every_page_is_checked() -> None:
    assert set(OBJECTS) == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_page_has_the_sections(page: str) -> None:
    assert re.findall(r"^## (.*)$", PAGES[page], re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_code_exist(page: str, names: set[str]) -> None:
    """Sites are in a trace of the model, attributes on its objects, classes in the package."""
    objects = OBJECTS[page]()
    found = SYMBOLS.search(PAGES[page])
    assert found is not None
    cells = [line.split(" | ")[-1] for line in found[1].splitlines() if line.startswith("| ")][1:]
    used = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(used) > 5
    visual = None if objects["lips"] is None else torch.zeros(3, objects["lips"].size)
    data = (torch.ones(3, objects["size"]),) if visual is None else (torch.ones(3, objects["size"]), visual)
    with torch.no_grad():
        sites = poutine.trace(objects["model"]).get_trace(*data).nodes
    for name in used:
        if name.startswith('"'):
            assert name.strip('"') in sites, name
        elif "." in name:
            owner, *path = name.split(".")
            value = objects[owner]
            for part in path:
                assert hasattr(value, part), name
                value = getattr(value, part)
            assert value is not None, name
        elif name[0].isupper():
            assert name in names, name
        else:
            assert name in inspect.signature(objects["model"].forward).parameters, name


@pytest.mark.parametrize("name", PROGRAMS)
def test_diagram_is_that_of_the_model(name: str) -> None:
    """The committed description; python docs/make_plate_diagrams.py writes it anew."""
    committed = (FOLDER / "plates" / f"{name}.dot").read_text(encoding="utf-8")
    assert DIAGRAMS["dot"](PROGRAMS[name]) == committed


def test_every_diagram_is_shown() -> None:
    shown = {name for text in PAGES.values() for name in re.findall(r"\(plates/(\w+)\.svg\)", text)}
    drawn = {path.stem for path in (FOLDER / "plates").glob("*.svg")}
    assert shown == drawn == set(PROGRAMS)


def test_index_names_every_page() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert {f"{page}.md" for page in PAGES} == set(re.findall(r"\((\w+\.md)\)", index))
