"""Model folders from anywhere: hostile ones are refused before they are built, killed saves leave a pair."""

import json
import os
import pickle
import resource
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from avse import zoo
from avse.data.errors import InputError
from avse.zoo.migration import FORMAT_VERSION, NO_CONTEXT, VERSION_1_DEFAULTS
from avse.zoo.pair import CARD, CONFIG, WEIGHTS, PairConfig, SpeechPair, load_folder

Damage = Callable[[Path], object]


@pytest.fixture
def folder(tiny_pair: SpeechPair, tmp_path: Path) -> Path:
    tiny_pair.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def config_with(*keys: str, value: Any) -> Damage:
    """Sets one value deep inside config.json."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        part = config
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")

    return damage


def raw(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def weights_with(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """Changes one tensor of the weights."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        name = min(tensors)
        save_file({**tensors, name: change(tensors[name])}, folder / WEIGHTS)

    return damage


class Trap:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trap",)


def huge_header(folder: Path) -> None:
    """Weights that declare 10^12 numbers and hold none."""
    header = json.dumps({"x": {"dtype": "F16", "shape": [10**6, 10**6], "data_offsets": [0, 2 * 10**12]}})
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header.encode())


def header_of(**tensors: Any) -> Damage:
    """Weights with a header of tensors (precision, shape, begin, end) and 64 bytes of zeros."""

    def damage(folder: Path) -> None:
        parts = {
            name: {"dtype": precision, "shape": shape, "data_offsets": [begin, end]}
            for name, (precision, shape, begin, end) in tensors.items()
        }
        header = json.dumps(parts).encode()
        (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))

    return damage


def instead_of(name: str, make: Callable[[Path], object]) -> Damage:
    """Puts something else in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


STFT_KEYS = ("front_end", "stft")
HOSTILE: dict[str, Damage] = {
    "pickled config": raw(CONFIG, pickle.dumps(Trap())),
    "pickled weights": raw(WEIGHTS, pickle.dumps(Trap())),
    "no dict": raw(CONFIG, b"[1, 2]"),
    "deep JSON": raw(CONFIG, b"[" * 100_000 + b"]" * 100_000),
    "deep object": raw(CONFIG, b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "config of 30 MB": raw(CONFIG, b" " * 30_000_000),
    "long number": raw(CONFIG, b'{"format_version": ' + b"9" * 10_000 + b"}"),
    "Latin-1 config": raw(CONFIG, '{"caf\xe9": 1}'.encode("latin-1")),
    "Latin-1 card": raw(CARD, "caf\xe9".encode("latin-1")),
    "card of 30 MB": raw(CARD, b"a" * 30_000_000),
    "size -1": config_with("arguments", "latent_size", value=-1),
    "size 0": config_with("arguments", "latent_size", value=0),
    "size 1e12": config_with("arguments", "latent_size", value=10**12),
    "size 2^20": config_with("arguments", "latent_size", value=2**20),
    "size true": config_with("arguments", "latent_size", value=True),
    "size 3.5": config_with("arguments", "latent_size", value=3.5),
    "layers 1e12": config_with("arguments", "encoder", value=[10**12]),
    "layers of a million": config_with("arguments", "encoder", value=[10**6, 10**6]),
    "layers true": config_with("arguments", "decoder", value=[True]),
    "no decoder": config_with("arguments", "decoder", value=[]),
    "layers null": config_with("arguments", "decoder", value=None),
    "layers text": config_with("arguments", "decoder", value="88"),
    "80,000 layers": config_with("arguments", "decoder", value=[8] * 80_000),
    "activation list": config_with("arguments", "encoder_activation", value=["tanh"]),
    "features unknown": config_with("arguments", "features", value="__import__"),
    "algorithm null": config_with("algorithm", value=None),
    "algorithm unknown": config_with("algorithm", value="magic"),
    "algorithm list": config_with("algorithm", value=["mcem"]),
    "architecture list": config_with("architecture", value=["a-vae"]),
    "arguments null": config_with("arguments", value=None),
    "unknown argument": config_with("arguments", "colour", value="blue"),
    "unknown field": config_with("colour", value="blue"),
    "too new": config_with("format_version", value=FORMAT_VERSION + 1),
    "version true": config_with("format_version", value=True),
    "version list": config_with("format_version", value=[2]),
    "rate NaN": config_with(*STFT_KEYS, "sample_rate", value=float("nan")),
    "rate 2^31": config_with(*STFT_KEYS, "sample_rate", value=2**31),
    "rate text": config_with(*STFT_KEYS, "sample_rate", value="16000"),
    "window 2^31": config_with(*STFT_KEYS, "window_length", value=2**31),
    "hop 0": config_with(*STFT_KEYS, "hop_length", value=0),
    "hop true": config_with(*STFT_KEYS, "hop_length", value=True),
    "high-pass infinite": config_with("front_end", "high_pass", value=float("inf")),
    "level list": config_with("front_end", "level", value=["rms"]),
    "lips uncalled for": config_with("lips", value={}),
    "NaN weights": weights_with(lambda tensor: tensor * float("nan")),
    "infinite weights": weights_with(lambda tensor: tensor.double() + 1e300),
    "bool weights": weights_with(lambda tensor: tensor > 0),
    "int weights": weights_with(lambda tensor: tensor.long()),
    "empty weights": raw(WEIGHTS, b""),
    "header of 2^60 bytes": raw(WEIGHTS, (2**60).to_bytes(8, "little") + b"{}"),
    "header of 10^12 numbers": huge_header,
    "size 1e12 as a float": config_with("arguments", "latent_size", value=1e12),
    "size 10^400": config_with("arguments", "latent_size", value=10**400),
    "size infinite": config_with("arguments", "latent_size", value=float("inf")),
    "size of objects": config_with("arguments", "latent_size", value={"a": [1]}),
    "layers -1": config_with("arguments", "encoder", value=[-1]),
    "layers nested": config_with("arguments", "encoder", value=[[8]]),
    "200,000 layers": config_with("arguments", "decoder", value=[8] * 200_000),
    "65 layers": config_with("arguments", "decoder", value=[8] * 65),
    "window -2": config_with(*STFT_KEYS, "window_length", value=-2),
    "window 2^16 of hop 1": config_with(
        *STFT_KEYS, value={"window_length": 2**16, "hop_length": 1, "sample_rate": 16000}
    ),
    "rate infinite": config_with(*STFT_KEYS, "sample_rate", value=float("inf")),
    "rate 0": config_with(*STFT_KEYS, "sample_rate", value=0),
    "rate null": config_with(*STFT_KEYS, "sample_rate", value=None),
    "high-pass NaN": config_with("front_end", "high_pass", value=float("nan")),
    "level of 200,000 letters": config_with("front_end", "level", value="9" * 200_000),
    "lone surrogate": config_with("algorithm", value="\ud800"),
    "config a folder": instead_of(CONFIG, Path.mkdir),
    "config a pipe": instead_of(CONFIG, os.mkfifo),
    "config a device": instead_of(CONFIG, lambda path: path.symlink_to("/dev/zero")),
    "config a loop": instead_of(CONFIG, lambda path: path.symlink_to(path.name)),
    "weights a pipe": instead_of(WEIGHTS, os.mkfifo),
    "weights a device": instead_of(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
    "card a pipe": instead_of(CARD, os.mkfifo),
    "card a device": instead_of(CARD, lambda path: path.symlink_to("/dev/zero")),
    "negative shape": header_of(x=("F16", [-1, 4], 0, 8)),
    "shape beyond 64 bits": header_of(x=("F16", [2**40, 2**40], 0, 8)),
    "overlapping tensors": header_of(x=("F16", [32], 0, 64), y=("F16", [32], 0, 64)),
    "unknown precision": header_of(x=("F3", [4], 0, 8)),
    "20,000 tensors": header_of(**{f"x{k}": ("F16", [0], 0, 0) for k in range(20_000)}),
    "8-bit weights": weights_with(lambda tensor: tensor.to(torch.float8_e5m2)),
    "complex weights": weights_with(lambda tensor: tensor.to(torch.complex64)),
    "one NaN": weights_with(lambda tensor: tensor.index_fill(-1, torch.tensor([0]), float("nan"))),
    "weights cut off": lambda folder: os.truncate(folder / WEIGHTS, 300),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folders_are_refused(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error of a line that names the file, within 2 s of CPU and 500 MB, and nothing is run."""
    monkeypatch.chdir(tmp_path)
    HOSTILE[name](folder)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(InputError) as error:
        load_folder(folder)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # kB
    assert str(folder) in str(error.value)
    assert len(str(error.value)) < 1000
    assert not (tmp_path / "trap").exists()


def test_a_hop_of_one_sample_is_refused(folder: Path) -> None:
    config_with(*STFT_KEYS, value={"window_length": 1024, "hop_length": 1, "sample_rate": 16000})(folder)
    with pytest.raises(InputError, match="hop_length 1"):
        load_folder(folder)


def leaves(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a configuration stands, the containers too."""
    if path:
        yield path
    if isinstance(values, dict | list):
        for key, part in values.items() if isinstance(values, dict) else enumerate(values):
            yield from leaves(part, (*path, key))


NOWHERE_VALID: list[Any] = [
    -1,
    10**12,
    1e12,
    2**31,
    float("nan"),
    float("inf"),
    "x",
    "\ud800",
    [[]],
    {"a": 1},
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "a-vae" else pytest.mark.slow) for name in zoo.shipped()]
)
def test_every_value_of_a_configuration_is_checked(name: str, tmp_path: Path) -> None:
    """Values that no field may have, in every field of the shipped pairs."""
    folder = shutil.copytree(zoo.shipped()[name], tmp_path / name)
    load_folder(folder)  # imports are not to be measured
    whole = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for path in leaves(whole):
        for value in NOWHERE_VALID:
            config_with(*path, value=value)(folder)
            start = time.process_time()
            with pytest.raises(InputError, match=CONFIG) as error:
                load_folder(folder)
            assert time.process_time() - start < 2, (path, value)
            assert len(str(error.value)) < 1000
            assert "\n" not in str(error.value)
            (folder / CONFIG).write_text(json.dumps(whole), encoding="utf-8")


@pytest.mark.parametrize("name", ["av-vae", "vae-mm"])
def test_an_encoder_of_sound_and_lips_needs_a_layer(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(zoo.shipped()[name], tmp_path / name)
    keys = ("arguments", "second", "encoder") if name == "vae-mm" else ("arguments", "encoder")
    config_with(*keys, value=[])(folder)
    with pytest.raises(InputError, match="av-vae: encoder: 0 layers"):
        load_folder(folder)


# Older formats -------------------------------------------------------------------------------------------


def as_version_1(source: Path, target: Path) -> None:
    """A shipped pair as it was written before formats had numbers: without what was the default then."""
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    for name in ("format_version", "revision"):
        config.pop(name, None)
    arguments, architecture = config["arguments"], config["architecture"]
    if architecture == "vae-mm":
        arguments["doubt_size"] = arguments.pop("corruption_embedding_size")
        for name, nested in (("first", "a-vae"), ("second", "av-vae")):
            arguments[name] = without_defaults(arguments[name], nested)
    config["arguments"] = without_defaults(arguments, architecture)
    if config["lips"] is None:
        del config["lips"]
    shutil.copytree(source, target)
    (target / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def without_defaults(arguments: dict[str, Any], architecture: str) -> dict[str, Any]:
    defaults = {**VERSION_1_DEFAULTS[architecture], **NO_CONTEXT}
    return {name: value for name, value in arguments.items() if value != defaults.get(name, ...)}


@pytest.mark.parametrize("name", sorted(zoo.shipped()))
def test_version_1_gives_the_same_log_variance(name: str, tmp_path: Path) -> None:
    as_version_1(zoo.shipped()[name], tmp_path / "old")
    old, new = load_folder(tmp_path / "old"), zoo.load(name)
    assert json.dumps(old.config.to_dict()) == json.dumps(new.config.to_dict())
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(4, 32, generator=generator)
    lips = new.config.lips
    visual = None if lips is None else torch.rand(4, lips.size, generator=generator).round()
    for ours, theirs in zip(old.model.given(visual)(z), new.model.given(visual)(z), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_shipped_configs_name_every_argument() -> None:
    for folder in zoo.shipped().values():
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        assert config["format_version"] == FORMAT_VERSION
        assert config == json.loads(json.dumps(PairConfig.from_dict(config).to_dict()))
        assert (folder / CARD).read_text(encoding="utf-8").startswith("---\nlicense: ")


# Saving --------------------------------------------------------------------------------------------------


def test_files_have_ordinary_modes_and_a_card(tmp_path: Path, tiny_config: PairConfig) -> None:
    SpeechPair(tiny_config).save_pretrained(tmp_path / "pair")
    mask = os.umask(0)
    os.umask(mask)
    files = sorted((tmp_path / "pair").iterdir())
    assert [file.name for file in files] == sorted([CONFIG, WEIGHTS, CARD])
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~mask}
    card = (tmp_path / "pair" / CARD).read_text(encoding="utf-8")
    head, body = card.split("\n---\n")
    for field in ("license", "datasets", "metrics", "tags", "library_name"):
        assert f"\n{field}: " in head
    assert body.strip()


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_killed_save_leaves_a_whole_pair(kills: int, tmp_path: Path, tiny_config: PairConfig) -> None:
    """Two pairs of other weights, levels and cards are saved in turn; a kill leaves one, never a mix."""
    pairs = {}
    for level in ("rms", "peak"):
        front_end = replace(tiny_config.front_end, level=level)
        config = replace(tiny_config, front_end=front_end)
        pairs[level] = SpeechPair(config, f"# {level}\n")
    out = tmp_path / "pair"
    pairs["rms"].save_pretrained(out)
    hashes = {level: pair.fingerprint() for level, pair in pairs.items()}
    assert len(set(hashes.values())) == 2
    moments = torch.rand(kills, generator=torch.Generator().manual_seed(5)).tolist()
    for moment in moments:
        kill_while_saving(list(pairs.values()), out, 0.02 * moment)
        found = load_folder(out)
        level = found.config.front_end.level
        assert found.fingerprint() == hashes[level]
        assert f"# {level}\n" in found.card
    pairs["peak"].save_pretrained(out)
    assert len(list(out.glob("model*"))) == 1, "what killed processes left is swept"


def kill_while_saving(pairs: list[SpeechPair], out: Path, seconds: float) -> None:
    """Fork a process that saves the pairs in turn, and kill it some seconds after its first save."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which touch no file
        child = os.fork()
    if child == 0:
        try:
            while True:
                for pair in pairs:
                    pair.save_pretrained(out)
                    os.write(writer, b".")
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_names_of_the_zoo_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert SpeechPair.from_pretrained("a-vae").fingerprint() == zoo.load("a-vae").fingerprint()


def test_names_that_are_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="neither a shipped model"):
        SpeechPair.from_pretrained("no/such/thing")


def test_weights_that_diverged_keep_the_older_pair(folder: Path, tiny_pair: SpeechPair) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with torch.no_grad():
        next(tiny_pair.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="diverged"):
        tiny_pair.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_decoder_changed_through_data_is_followed(tiny_pair: SpeechPair) -> None:
    tiny_pair.modules().requires_grad_(False)
    z = torch.randn(5, 3)
    before = tiny_pair.model.given()(z).log_variance
    tiny_pair.model.decoder.output.bias.data.add_(1.0)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(tiny_pair.model.given()(z).log_variance, before + 1)
