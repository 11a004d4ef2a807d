"""The package as it is declared, imported and checked."""

import configparser
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import avse

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "src" / "avse" / "zoo" / "weights"


def declared() -> dict[str, str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return dict(line.split(" = ") for line in setup["options"]["package_dir"].strip().splitlines())


def test_every_folder_with_modules_is_declared() -> None:
    """A sub-package missing from setup.cfg works in a checkout and is silently absent from the wheel."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = setup["options"]["packages"].split()
    assert sorted(packages) == sorted(declared())
    tops = ("src/avse", "data", "models", "guides", "inference", "evaluation")
    folders = {str(p.parent.relative_to(ROOT)) for top in tops for p in (ROOT / top).rglob("*.py")}
    assert folders == set(declared().values())
    for folder in folders:
        assert (ROOT / folder / "__init__.py").is_file(), folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds the wheel or sdist of a project, by default this one, once, without any network."""
    done: dict[tuple[str, Path], Path] = {}

    def build(kind: str, project: Path = ROOT) -> Path:
        if (kind, project) not in done:
            folder = tmp_path_factory.mktemp(kind)
            skipped = shutil.ignore_patterns(
                ".*", "build", "dist", "*.egg-info", "__pycache__", "demo", "runs"
            )
            shutil.copytree(project, folder / "project", ignore=skipped)
            call = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
            run = subprocess.run(
                [sys.executable, "-c", call], cwd=folder / "project", capture_output=True, text=True
            )
            assert run.returncode == 0, run.stderr[-2000:]
            done[kind, project] = folder / run.stdout.split()[-1]
        return done[kind, project]

    return build


def unpacked_sdist(built: Callable[..., Path], folder: Path) -> Path:
    with tarfile.open(built("sdist")) as archive:
        archive.extractall(folder, filter="data")
    (project,) = folder.iterdir()
    return project


def weights_files() -> set[str]:
    return {str(path.relative_to(WEIGHTS)) for path in WEIGHTS.rglob("*") if path.is_file()}


def test_wheel_has_every_module_and_the_weights(built: Callable[..., Path]) -> None:
    names = set(zipfile.ZipFile(built("wheel")).namelist())
    modules = {
        f"{package.replace('.', '/')}/{module.name}"
        for package, folder in declared().items()
        for module in (ROOT / folder).glob("*.py")
    }
    own = {name for name in names if ".dist-info/" not in name}
    others = {"avse/py.typed", "avse/evaluation/results_report/templates/report.html"}
    others |= {f"avse/serve/{file}" for file in ("templates/page.html", "static/page.css", "static/page.js")}
    assert own == modules | {f"avse/zoo/weights/{file}" for file in weights_files()} | others


def test_wheel_says_what_it_is(built: Callable[..., Path]) -> None:
    archive = zipfile.ZipFile(built("wheel"))
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(archive.read(name))
    assert (metadata["Name"], metadata["Version"]) == ("avse", avse.__version__)
    assert metadata["Author"] == "The avse authors"
    assert metadata["License"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Unsupervised audio-visual speech enhancement" in metadata.get_payload()
    extras = {
        "dev", "dnsmos", "docs", "evaluation", "metrics", "serve", "show", "synthetic", "train", "video"
    }  # fmt: skip
    assert set(metadata.get_all("Provides-Extra")) == extras
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    named = {re.split(r"[^\w-]", line)[0].lower() for line in required}
    assert named.isdisjoint({"espeakng-loader", "h5py", "lightning", "mtcnn", "pesq", "pystoi", "pytest"})
    assert any(name.endswith("LICENSE") for name in archive.namelist())
    assert any(name.endswith("entry_points.txt") for name in archive.namelist())


@pytest.mark.slow
def test_sdist_has_every_module_and_the_weights(built: Callable[..., Path]) -> None:
    with tarfile.open(built("sdist")) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    for folder in declared().values():
        for module in (ROOT / folder).glob("*.py"):
            assert f"{folder}/{module.name}" in names
    assert {f"src/avse/zoo/weights/{file}" for file in weights_files()} <= names
    assert {"src/avse/py.typed", "README.md", "LICENSE", "setup.cfg", "pyproject.toml"} <= names


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(built: Callable[..., Path], tmp_path: Path) -> None:
    wheel, again = built("wheel"), built("wheel", unpacked_sdist(built, tmp_path))
    assert wheel.name == again.name
    contents = []
    for path in (wheel, again):
        archive = zipfile.ZipFile(path)
        contents.append({name: archive.read(name) for name in archive.namelist()})
    assert contents[0] == contents[1]


ORIGINS = """
import sys
import avse, avse.data, avse.models, avse.guides, avse.inference, avse.evaluation, avse.zoo
print(avse.load("a-vae").name)
for name, module in sorted(sys.modules.items()):
    if name.partition(".")[0] in {"avse", "data", "models", "guides", "inference", "evaluation", "src"}:
        print(name, *([module.__file__] if module.__file__ else module.__path__), sep="\t")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["editable", "wheel", "sdist"])
def test_a_python_in_a_clone_does_not_mix_two_copies(
    kind: str, built: Callable[..., Path], tmp_path: Path
) -> None:
    """Started in the root of a clone, every module is of the installed copy, and of that alone."""
    clone, environment = ROOT, dict(os.environ)
    installed = ROOT
    if kind != "editable":
        clone = unpacked_sdist(built, tmp_path / "clone") if kind == "sdist" else ROOT
        installed = tmp_path / "site"
        zipfile.ZipFile(built("wheel", *([clone] if kind == "sdist" else []))).extractall(installed)
        environment["PYTHONPATH"] = str(installed)
    call = [sys.executable, "-c", ORIGINS]
    done = subprocess.run(call, cwd=clone, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "a-vae"
    origins = dict(line.split("\t") for line in lines)
    assert {"avse", "avse.data.audio", "avse.zoo.pair", "avse.inference.em.em"} <= origins.keys()
    assert all(name.partition(".")[0] == "avse" for name in origins)
    for name, origin in origins.items():
        assert Path(origin).is_relative_to(installed), (name, origin)


def test_the_root_of_a_clone_holds_no_half_of_the_package() -> None:
    assert not (ROOT / "avse").exists()
    assert not (ROOT / "avse.py").exists()
    assert not (ROOT / "src" / "avse" / "data").exists()


def test_public_names_exist() -> None:
    for name in avse.__all__:
        assert hasattr(avse, name)


def test_dependencies_point_one_way() -> None:
    """data <- models <- guides <- inference <- evaluation <- avse: no reaching back."""
    order = ["data", "models", "guides", "inference", "evaluation"]
    for rank, folder in enumerate(order):
        for module in (ROOT / folder).rglob("*.py"):
            text = module.read_text()
            for later in [*order[rank + 1 :], "enhance", "zoo", "pair", "cli", "commands", "recipes"]:
                assert f"from avse.{later}" not in text, f"{module} reaches back to avse.{later}"


def test_shipped_weights_are_small() -> None:
    for file in (ROOT / "src" / "avse" / "zoo" / "weights").rglob("*.safetensors"):
        assert file.stat().st_size < 11_000_000, (
            file
        )  # a VAE-MM holds two models and a context guide that reads lips
