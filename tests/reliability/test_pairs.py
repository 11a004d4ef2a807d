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
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from avse import zoo
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.shape_front_end import LipShapeFrontEnd
from avse.data.stft import STFT
from avse.zoo.migration import FORMAT_VERSION, NO_CONTEXT, VERSION_1_DEFAULTS
from avse.zoo.pair import CARD, CONFIG, WEIGHTS, PairConfig, SpeechPair, load_folder

Damage = Callable[[Path], object]


OLD_AND_NEW = ("doubt", "corruption_classifier")
"""A part of a model under its name in version 1 and today."""


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


def text_with(old: str, new: str) -> Damage:
    """Replaces a part of the text of config.json."""

    def damage(folder: Path) -> None:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        assert old in text
        (folder / CONFIG).write_text(text.replace(old, new), encoding="utf-8")

    return damage


def encoded(encoding: str) -> Damage:
    """The right text of config.json in another encoding."""
    return lambda folder: (folder / CONFIG).write_bytes(
        (folder / CONFIG).read_bytes().decode().encode(encoding)
    )


def config_without(*keys: str) -> Damage:
    """Removes one entry of config.json."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        part = config
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]
        (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")

    return damage


def tensors_with(change: Callable[[dict[str, torch.Tensor], str], dict[str, torch.Tensor]]) -> Damage:
    """Changes the set of tensors, given the name of a matrix among them."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        name = min(name for name, tensor in tensors.items() if tensor.dim() == 2)
        save_file(change(tensors, name), folder / WEIGHTS)

    return damage


def matrix_with(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """Changes one matrix of the weights."""
    return tensors_with(lambda tensors, name: {**tensors, name: change(tensors[name]).contiguous()})


def tensor_named(name: str) -> Damage:
    """Adds a tensor."""
    return tensors_with(lambda tensors, _: {**tensors, name: torch.zeros(3)})


def weights_bytes(change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))


def header_text(header: bytes) -> Damage:
    """Weights with a header of one's own and 64 bytes of zeros."""
    return raw(WEIGHTS, len(header).to_bytes(8, "little") + header + bytes(64))


def sparse(name: str, size: int = 2**40) -> Damage:
    """A file that says that it has `size` bytes and takes none on the disk."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(b"")
        os.truncate(folder / name, size)

    return damage


def sparse_tensor(folder: Path) -> None:
    """A tensor of 2^40 bytes, all of which are there."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**18, 2**20], "data_offsets": [0, 2**40]}}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(folder / WEIGHTS, 8 + len(header) + 2**40)


def linked(name: str, target: str) -> Damage:
    return instead_of(name, lambda path: path.symlink_to(target))


def nothing(path: Path) -> None:
    """In the place of a file."""


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
    # Text of the configuration.
    "field twice": text_with('"algorithm"', '"algorithm": "vem", "algorithm"'),
    "argument twice": text_with('"latent_size"', '"latent_size": 2, "latent_size"'),
    "byte order mark": encoded("utf-8-sig"),
    "UTF-16 config": encoded("utf-16"),
    "UTF-32 config": encoded("utf-32"),
    "empty config": raw(CONFIG, b""),
    "blank config": raw(CONFIG, b" \n "),
    "zeros as config": raw(CONFIG, bytes(1000)),
    "null config": raw(CONFIG, b"null"),
    "text config": raw(CONFIG, b'"a-vae"'),
    "two configs": lambda folder: (folder / CONFIG).write_bytes(2 * (folder / CONFIG).read_bytes()),
    "config cut off": lambda folder: os.truncate(folder / CONFIG, 100),
    "comment in the config": text_with("{", "// a pair\n{"),
    "page in the place of the config": raw(CONFIG, b"<!DOCTYPE html><title>404</title>"),
    "number 1e999": text_with('"high_pass": 0.0', '"high_pass": 1e999'),
    "number NaN": text_with('"high_pass": 0.0', '"high_pass": NaN'),
    "number -Infinity": text_with('"high_pass": 0.0', '"high_pass": -Infinity'),
    # Fields.
    "no algorithm": config_without("algorithm"),
    "no arguments": config_without("arguments"),
    "no latent size": config_without("arguments", "latent_size"),
    "no hop": config_without(*STFT_KEYS, "hop_length"),
    "no front end": config_without("front_end"),
    "version 0": config_with("format_version", value=0),
    "version 3.0": config_with("format_version", value=3.0),
    "version null": config_with("format_version", value=None),
    "revision a path": config_with("revision", value="../../../../etc/passwd"),
    "revision with a line break": config_with("revision", value="0123456789abcdef\n"),
    "revision in upper case": config_with("revision", value="0123456789ABCDEF"),
    "revision null": config_with("revision", value=None),
    "revision list": config_with("revision", value=["0123456789abcdef"]),
    "architecture null": config_with("architecture", value=None),
    "architecture a path": config_with("architecture", value="../a-vae"),
    "architecture with a zero": config_with("architecture", value="a-vae\0"),
    "architecture with a line break": config_with("architecture", value="a-vae\n"),
    "architecture of lips": config_with("architecture", value="v-vae"),
    "algorithm with line breaks": config_with("algorithm", value="mcem\n" * 1000),
    "front end null": config_with("front_end", value=None),
    "front end list": config_with("front_end", value=[]),
    "STFT null": config_with(*STFT_KEYS, value=None),
    "STFT list": config_with(*STFT_KEYS, value=[64, 32, 16000]),
    "STFT with bins": config_with(*STFT_KEYS, "bins", value=33),
    "hop as long as the window": config_with(*STFT_KEYS, "hop_length", value=64),
    "hop longer than the window": config_with(*STFT_KEYS, "hop_length", value=65),
    "hop 2^40": config_with(*STFT_KEYS, "hop_length", value=2**40),
    "window off by two": config_with(*STFT_KEYS, "window_length", value=66),
    "window 1": config_with(*STFT_KEYS, "window_length", value=1),
    "window 2^16": config_with(*STFT_KEYS, "window_length", value=2**16),
    "96,000 frames per second": config_with(
        *STFT_KEYS, value={"window_length": 64, "hop_length": 8, "sample_rate": 768_000}
    ),
    "49 million bins per second": config_with(
        *STFT_KEYS, value={"window_length": 2**16, "hop_length": 512, "sample_rate": 768_000}
    ),
    "rate -16000": config_with(*STFT_KEYS, "sample_rate", value=-16000),
    "rate as a float": config_with(*STFT_KEYS, "sample_rate", value=16000.0),
    "rate true": config_with(*STFT_KEYS, "sample_rate", value=True),
    "high-pass below 0": config_with("front_end", "high_pass", value=-1.0),
    "high-pass above half the rate": config_with("front_end", "high_pass", value=8001.0),
    "high-pass text": config_with("front_end", "high_pass", value="100"),
    "level null": config_with("front_end", "level", value=None),
    "activation unknown": config_with("arguments", "encoder_activation", value="swish"),
    "activation of torch": config_with("arguments", "encoder_activation", value="torch.hub.load"),
    "activation null": config_with("arguments", "decoder_activation", value=None),
    "latents off by one": config_with("arguments", "latent_size", value=4),
    "layer off by one": config_with("arguments", "decoder", value=[9]),
    "layer too many": config_with("arguments", "decoder", value=[8, 8]),
    "64 layers of 2^20": config_with("arguments", "decoder", value=[2**20] * 64),
    "layers a mapping": config_with("arguments", "decoder", value={"0": 8}),
    "argument bins": config_with("arguments", "bins", value=33),
    "argument __class__": config_with("arguments", "__class__", value="SpeechPair"),
    "argument with a line break": config_with("arguments", "a\nb", value=1),
    "argument of 200,000 letters": config_with("arguments", "a" * 200_000, value=1),
    "16,000 arguments": config_with("arguments", value={f"k{index}": 1 for index in range(16_000)}),
    # Tensors.
    "matrix off by one": matrix_with(lambda matrix: matrix[1:]),
    "matrix transposed": matrix_with(lambda matrix: matrix.T),
    "matrix flattened": matrix_with(lambda matrix: matrix.flatten()),
    "matrix with one more dimension": matrix_with(lambda matrix: matrix[None]),
    "matrix without numbers": matrix_with(lambda matrix: matrix[:0]),
    "matrix of one number": matrix_with(lambda matrix: matrix[0, 0]),
    "matrix of -inf": matrix_with(lambda matrix: torch.full_like(matrix, -torch.inf)),
    "NaN in float64": matrix_with(lambda matrix: matrix.double() * float("nan")),
    "infinity in bfloat16": matrix_with(lambda matrix: matrix.bfloat16() + torch.inf),
    "bytes as weights": matrix_with(lambda matrix: matrix.to(torch.uint8)),
    "tensor missing": tensors_with(lambda tensors, name: {k: v for k, v in tensors.items() if k != name}),
    "no tensors": tensors_with(lambda tensors, name: {}),
    "tensor of a path": tensor_named("../../x"),
    "tensor without a name": tensor_named(""),
    "tensor with a line break": tensor_named("a\nb"),
    "tensor with an escape": tensor_named("a\x1b[2Jb"),
    "tensor of 100,000 letters": tensor_named("a" * 100_000),
    "tensor of two names": tensors_with(
        lambda tensors, _: {**tensors, **{f"model.{name}.x": torch.zeros(1) for name in OLD_AND_NEW}}
    ),
    "weights of 60000": tensors_with(
        lambda tensors, _: {name: torch.full_like(tensor, 6e4) for name, tensor in tensors.items()}
    ),
    "weights of 3e38": tensors_with(
        lambda tensors, _: {
            name: torch.full_like(tensor, 3e38, dtype=torch.float32) for name, tensor in tensors.items()
        }
    ),
    # Weights file.
    "weights cut by a byte": weights_bytes(lambda content: content[:-1]),
    "weights cut in the length": weights_bytes(lambda content: content[:7]),
    "weights cut in the header": weights_bytes(lambda content: content[:20]),
    "bytes after the weights": weights_bytes(lambda content: content + bytes(10)),
    "config as weights": lambda folder: shutil.copy(folder / CONFIG, folder / WEIGHTS),
    "weights as config": lambda folder: shutil.copy(folder / WEIGHTS, folder / CONFIG),
    "pointer to the weights": raw(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
    "header of 0 bytes": raw(WEIGHTS, bytes(8)),
    "header list": header_text(b"[]"),
    "header deep": header_text(b'{"__metadata__":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001),
    "header in UTF-16": header_text("{}".encode("utf-16")),
    "offsets reversed": header_of(x=("F16", [4], 8, 0)),
    "offset negative": header_of(x=("F16", [4], -8, 0)),
    "offset beyond the file": header_of(x=("F16", [4], 1000, 1008)),
    "shape of other size": header_of(x=("F16", [5], 0, 8)),
    "shape of halves": header_of(x=("F16", [4.5], 0, 8)),
    "100,000 dimensions": header_of(x=("F16", [1] * 100_000, 0, 2)),
    "precision null": header_of(x=(None, [4], 0, 8)),
    "config of 2^40 bytes": sparse(CONFIG),
    "weights of 2^40 bytes": sparse(WEIGHTS),
    "card of 2^40 bytes": sparse(CARD),
    "tensor of 2^40 bytes": sparse_tensor,
    # What lies in the place of files.
    "no config": instead_of(CONFIG, nothing),
    "no weights": instead_of(WEIGHTS, nothing),
    "weights a folder": instead_of(WEIGHTS, Path.mkdir),
    "card a folder": instead_of(CARD, Path.mkdir),
    "config of nowhere": linked(CONFIG, "absent"),
    "weights of nowhere": linked(WEIGHTS, "absent"),
    "card of nowhere": linked(CARD, "absent"),
    "weights a loop": linked(WEIGHTS, WEIGHTS),
    "card a loop": linked(CARD, CARD),
    "config of a folder": linked(CONFIG, "/"),
    "config of the memory": linked(CONFIG, "/proc/self/mem"),
    "weights of the memory": linked(WEIGHTS, "/proc/self/mem"),
    "card in UTF-16": raw(CARD, "# A pair".encode("utf-16")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folders_are_refused(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error of a line that names the file, within 1 s of CPU and 300 MB, and nothing is run."""
    monkeypatch.chdir(tmp_path)
    HOSTILE[name](folder)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(InputError) as error:
        load_folder(folder)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000  # kB
    assert str(folder) in str(error.value)
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()
    assert not (tmp_path / "trap").exists()


TINY = {"latent_size": 3, "encoder": [8], "decoder": [8]}
TINY_LIPS = {**TINY, "embedding_size": 4}
HOSTILE_MIXTURES: dict[str, Damage] = {
    "weights of components above 1": config_with("arguments", "pi", value=[0.5, 0.5, 0.5]),
    "two weights of three components": config_with("arguments", "pi", value=[0.5, 0.5]),
    "50,000 weights of components": config_with("arguments", "pi", value=[1.0] + [0.0] * 50_000),
    "a weight below 0": config_with("arguments", "pi", value=[1.5, -0.5, 0.0]),
    "a weight that is text": config_with("arguments", "pi", value="1"),
    "components of other latents": config_with("arguments", "second", "latent_size", value=4),
    "no component": config_with("arguments", "third", value=None),
    "component a list": config_with("arguments", "first", value=[3, 8, 8]),
    "component with lips of its own": config_with("arguments", "first", "lips", value={}),
    "trunk unknown": config_with("arguments", "third", "trunk", value="resnet"),
    "temperature 0": config_with("arguments", "third", "temperature", value=0.0),
    "lips null": config_with("lips", value=None),
    "lips list": config_with("lips", value=[3]),
    "lips of both kinds": config_with("lips", value={"instants": 3, "step": 0.04, "side": 8}),
    "instants even": config_with("lips", "instants", value=4),
    "instants 0": config_with("lips", "instants", value=0),
    "instants 10^6": config_with("lips", "instants", value=10**6),
    "instants 1001": config_with("lips", "instants", value=1001),
    "step 0": config_with("lips", "step", value=0.0),
    "step below 0": config_with("lips", "step", value=-0.04),
    "step NaN": config_with("lips", "step", value=float("nan")),
    "lips of another name": config_with("lips", "pictures", value=3),
    "tensors of the classifier under two names": tensors_with(
        lambda tensors, _: {
            **tensors,
            **{name.replace(*reversed(OLD_AND_NEW)): 2 * own for name, own in tensors.items()},
        }
    ),
}


@pytest.mark.parametrize("name", HOSTILE_MIXTURES)
def test_hostile_folders_of_mixtures_are_refused(name: str, tmp_path: Path) -> None:
    arguments = {"first": TINY, "second": TINY_LIPS, "third": TINY_LIPS, "corruption_embedding_size": 4}
    config = PairConfig("a-v-av", arguments, FrontEnd(STFT(64, 32)), LipShapeFrontEnd(instants=3))
    SpeechPair(config).save_pretrained(tmp_path)
    load_folder(tmp_path)
    HOSTILE_MIXTURES[name](tmp_path)
    start = time.process_time()
    with pytest.raises(InputError) as error:
        load_folder(tmp_path)
    assert time.process_time() - start < 1
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


NO_PAIRS = [
    "",
    "x" * 300,
    "a/" * 3000,
    "a\0b",
    "\ud800",
    "a\nb",
    "config.json",
    ".",
    "../weights/a-vae",
    "A-VAE",
]


@pytest.mark.parametrize("name", NO_PAIRS)
def test_names_that_no_pair_can_have_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("avse.zoo.pair.snapshot_download", refused_download)
    (tmp_path / CONFIG).write_text("{}", encoding="utf-8")
    for load in (zoo.load, SpeechPair.from_pretrained):
        with pytest.raises(InputError) as error:
            load(name)
        assert len(str(error.value)) < 1000
        assert str(error.value).isprintable()


def refused_download(name: str, **options: object) -> str:
    """Stands for a hub that cannot be reached."""
    raise LocalEntryNotFoundError(f"cannot find {name!r}\nTry again")


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
