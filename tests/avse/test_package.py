"""The package as it is declared, imported and checked."""

import configparser
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import avse

ROOT = Path(__file__).resolve().parents[2]


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


def built(kind: str, folder: Path) -> Path:
    """The wheel or sdist of the project, built by its backend without any network."""
    copy = folder / "project"
    skipped = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "demo", "runs")
    shutil.copytree(ROOT, copy, ignore=skipped)
    call = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", call], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / done.stdout.split()[-1]


def test_wheel_has_every_module_and_the_weights(tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(built("wheel", tmp_path)).namelist())
    for package, folder in declared().items():
        for module in (ROOT / folder).glob("*.py"):
            assert f"{package.replace('.', '/')}/{module.name}" in names
    for file in ("config.json", "model.safetensors", "README.md"):
        assert f"avse/zoo/weights/a-vae/{file}" in names
    assert "avse/py.typed" in names


def test_sdist_has_every_module_and_the_weights(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path)) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    for folder in declared().values():
        for module in (ROOT / folder).glob("*.py"):
            assert f"{folder}/{module.name}" in names
    assert {
        "src/avse/zoo/weights/a-vae/model.safetensors",
        "src/avse/py.typed",
        "README.md",
        "LICENSE",
    } <= names


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
        assert file.stat().st_size < 4_000_000, file  # a VAE-MM holds two models
