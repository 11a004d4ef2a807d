"""Checks of a pair's configuration and weights before anything is built from them.

A model folder may come from anybody. Nothing in it is trusted: types, ranges, tensor names, shapes and
precisions are compared with what the architecture asks for while its networks still take no memory, and all
numbers must be finite.
"""

import inspect
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from avse.data.errors import InputError
from avse.data.front_end import FrontEnd, Level
from avse.data.lips.front_end import LipFrontEnd
from avse.data.lips.shape_front_end import LipShapeFrontEnd, LipView
from avse.inference.presets import PRESETS
from avse.models.networks.sequence import SEQUENCE_NETWORKS
from avse.models.networks.spectrum import ACTIVATIONS
from avse.zoo.architectures import ARCHITECTURES, FEATURES, NESTED_ARGUMENTS, TRUNKS
from avse.zoo.migration import check_names, one_line, shortened

MAX_CONFIG_BYTES = 2**18
MAX_CARD_BYTES = 2**20
MAX_HEADER_BYTES = 2**20
"""Of the header of the weights, which names every tensor in about 100 bytes."""

MAX_PARAMETERS = 50_000_000
"""Numbers in all tensors of a pair; the largest of the zoo has 2 million."""

MAX_FILE_BYTES = 8 + MAX_HEADER_BYTES + 8 * MAX_PARAMETERS
"""Of the weights, in the widest precision."""

MAX_SIZE = 2**20
"""Units of one layer."""

MAX_LAYERS = 64
"""Of one network; also the most numbers in a list of probabilities."""

MAX_WINDOW = 2**16
MAX_OVERLAP = 128
"""Window over hop: frames that a sample lies in."""

MAX_FRAME_RATE = 2000
"""Frames per second; the shipped pairs have 30."""

MAX_BIN_RATE = 2**19
"""Bins per second of sound, frames times bins, each of which takes a few numbers of memory."""

SAMPLE_RATES = (1000, 768_000)
LEVELS = typing.get_args(Level)
MAX_INSTANTS = 1001
MAX_STEP = 10.0
SHAPE_SETTINGS = frozenset(field.name for field in fields(LipShapeFrontEnd))

PRECISIONS = frozenset({"F16", "BF16", "F32", "F64"})
"""Of saved tensors, in the words of safetensors."""


class TensorSpec(NamedTuple):
    """A tensor in a weights file: shape and precision, as its header says."""

    shape: tuple[int, ...]
    precision: str


# Configuration -------------------------------------------------------------------------------------------


def builder_arguments(architecture: str) -> dict[str, Any]:
    """Names and defaults of what a builder takes, besides bins and lips.

    Raises:
        InputError: an unknown architecture.
    """
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise InputError(
            f"unknown architecture {shortened(architecture)}: use one of {', '.join(ARCHITECTURES)}"
        )
    parameters = inspect.signature(ARCHITECTURES[architecture]).parameters
    return {name: p.default for name, p in parameters.items() if name not in ("bins", "lips")}


def check_architecture(architecture: str, arguments: Any, lips: LipView | None) -> None:
    """Check that a builder can be called with these arguments, all of which are named.

    Raises:
        InputError: an unknown architecture, an unknown or missing argument, one of another type or out of
            range, or lips for an architecture that has no use for them (or none for one that has).
    """
    check_names(arguments, builder_arguments(architecture), f"arguments of {architecture}")
    _check_arguments(architecture, arguments)
    takes_lips = "lips" in inspect.signature(ARCHITECTURES[architecture]).parameters
    if takes_lips != (lips is not None):
        raise InputError(
            f"lips: {architecture} needs a lip front end"
            if takes_lips
            else f"lips: {architecture} takes none"
        )


def _check_arguments(architecture: str, arguments: Mapping[str, Any]) -> None:
    annotations = typing.get_type_hints(ARCHITECTURES[architecture])
    for name, value in arguments.items():
        where = f"{architecture}: {name}"
        if name in NESTED_ARGUMENTS.get(architecture, {}):
            nested = NESTED_ARGUMENTS[architecture][name]
            check_names(value, builder_arguments(nested), f"{where}, arguments of {nested}")
            _check_arguments(nested, value)
        elif name in CHOICES:
            if not isinstance(value, str) or value not in CHOICES[name]:
                raise InputError(f"{where} {shortened(value)}: use one of {', '.join(CHOICES[name])}")
        elif name in RANGES and annotations[name] == Sequence[float]:
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise InputError(f"{where} {shortened(value)}: must be a list of numbers")
            if len(value) > MAX_LAYERS:
                raise InputError(f"{where}: {len(value)} numbers; give at most {MAX_LAYERS}")
            for number in value:
                check_number(number, where, *RANGES[name])
        elif name in RANGES:
            check_number(value, where, *RANGES[name])
        elif annotations[name] is bool:
            if not isinstance(value, bool):
                raise InputError(f"{where} {shortened(value)}: must be true or false")
        elif annotations[name] is int:
            check_whole(value, where, *WHOLE_RANGES.get(name, (1, MAX_SIZE)))
        else:
            may_be_empty = name in MAY_BE_EMPTY and (architecture, name) != CONDITIONED_ENCODER
            _check_layers(
                value,
                where,
                0 if may_be_empty else 1,
                MAX_DILATION if name.endswith("_dilations") else MAX_SIZE,
            )
    for dilations, channels in DILATED.items():
        if dilations in arguments and bool(arguments[dilations]) != (arguments[channels] > 0):
            raise InputError(f"{architecture}: {dilations} and {channels}: give both, or [] and 0 for none")


DILATED = {
    "context_dilations": "context_channels",
    "refinement_dilations": "refinement_channels",
}
"""Arguments that list the dilations of a network -> that give its number of channels, 0 for none."""
MAX_DILATION = 4096
"""Frames; a minute at the hop of the zoo."""

CHOICES: dict[str, Sequence[str]] = {
    "features": list(FEATURES),
    "trunk": list(TRUNKS),
    "prior": ["network", "standard"],
    "network": list(SEQUENCE_NETWORKS),
    **{
        f"{part}activation": list(ACTIVATIONS)
        for part in ("encoder_", "decoder_", "visual_", "audio_", "transition_")
    },
}
"""Arguments of the builders that are one of a few texts."""

RANGES = {"pi": (0.0, 1.0), "dropout": (0.0, 0.99), "temperature": (0.01, 100.0), "epsilon": (0.0, 0.99)}
WHOLE_RANGES = {
    "version": (1, 2),
    "corruption_embedding_size": (0, MAX_SIZE),
    **dict.fromkeys(DILATED.values(), (0, MAX_SIZE)),
}
MAY_BE_EMPTY = frozenset({"encoder", "visual_encoder", "audio_encoder", "prior_hidden", *DILATED})
CONDITIONED_ENCODER = ("av-vae", "encoder")
"""Its first hidden layer is where sound and lips meet, so that it needs one."""


def _check_layers(value: Any, where: str, least: int, largest: int = MAX_SIZE) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{where} {shortened(value)}: must be a list of layer sizes")
    if not least <= len(value) <= MAX_LAYERS:
        raise InputError(f"{where}: {len(value)} layers; give {least} to {MAX_LAYERS}")
    for size in value:
        check_whole(size, where, 1, largest)


def check_whole(value: Any, where: str, least: int, most: int) -> None:
    """Check a whole number, least <= value <= most.

    Raises:
        InputError: another type or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{where} {shortened(value)}: must be a whole number from {least} to {most}")


def check_number(value: Any, where: str, least: float, most: float) -> None:
    """Check a finite number, least <= value <= most.

    Raises:
        InputError: another type, NaN or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InputError(f"{where} {shortened(value)}: must be a number from {least:g} to {most:g}")


def check_stft(window_length: Any, hop_length: Any, sample_rate: Any) -> None:
    """Check the settings of a short-time Fourier transform that a pair may ask for.

    Raises:
        InputError: another type, or a transform that a recording could not be brought through: the window is
            2 to `MAX_WINDOW` samples, at most `MAX_OVERLAP` hops and longer than one, and a second of sound
            has at most `MAX_FRAME_RATE` frames and `MAX_BIN_RATE` bins.
    """
    check_whole(window_length, "STFT window_length", 2, MAX_WINDOW)
    check_whole(hop_length, "STFT hop_length", max(1, window_length // MAX_OVERLAP), window_length - 1)
    check_whole(sample_rate, "STFT sample_rate", *SAMPLE_RATES)
    frames = sample_rate / hop_length
    if frames > MAX_FRAME_RATE or frames * (window_length // 2 + 1) > MAX_BIN_RATE:
        raise InputError(
            f"STFT window_length {window_length}, hop_length {hop_length}, sample_rate {sample_rate}: "
            f"{frames:.0f} frames per second; give at most {MAX_FRAME_RATE}, and {MAX_BIN_RATE} bins in them"
        )


def check_level(level: Any) -> None:
    """Check the common level of recordings.

    Raises:
        InputError: no level of that name.
    """
    if not isinstance(level, str) or level not in LEVELS:
        raise InputError(f"level {shortened(level)}: use one of {', '.join(LEVELS)}")


def check_front_end(front_end: FrontEnd) -> None:
    """Check types and ranges of a pair's front end.

    Raises:
        InputError: a setting of another type or out of range.
    """
    stft = front_end.stft
    check_stft(stft.window_length, stft.hop_length, stft.sample_rate)
    check_level(front_end.level)
    check_number(front_end.high_pass, "high_pass", 0.0, stft.sample_rate / 2)


def check_lips(values: Mapping[str, Any]) -> None:
    """Check names, types and ranges of a lip front end of either kind; the class itself checks the rest.

    Raises:
        InputError: a setting that is unknown, missing, of another type or out of range.
    """
    pixels = isinstance(values, Mapping) and not values.keys() <= SHAPE_SETTINGS
    kind = LipFrontEnd if pixels else LipShapeFrontEnd
    check_names(values, [field.name for field in fields(kind)], "lips")
    check_whole(values["instants"], "lips: instants", 1, MAX_INSTANTS)
    check_number(values["step"], "lips: step", 0.0, MAX_STEP)
    if not pixels:
        return
    check_whole(values["side"], "lips: side", 1, MAX_SIZE)
    if not isinstance(values["normalised"], bool):
        raise InputError(f"lips: normalised {shortened(values['normalised'])}: must be true or false")


def check_algorithm(name: Any) -> None:
    """Check the name of an algorithm.

    Raises:
        InputError: no preset has this name.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"algorithm {shortened(name)}: use one of {', '.join(PRESETS)}")


# Files ---------------------------------------------------------------------------------------------------


def read_text(path: Path, largest: int) -> str:
    """A text file in UTF-8 of at most `largest` bytes.

    Raises:
        InputError: it is too large, cannot be read or is of another encoding; the message does not name it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise InputError(f"larger than {largest} bytes, which no pair needs")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file of at most `MAX_CONFIG_BYTES`.

    Raises:
        InputError: it cannot be read, is no JSON (which knows no NaN), names a field twice or is too deeply
            nested.
    """
    try:
        return json.loads(
            read_text(path, MAX_CONFIG_BYTES), parse_constant=_no_constant, object_pairs_hook=_distinct
        )
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"damaged or of another format ({error}); save the pair again") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{shortened(twice)} is named twice")
    return found


def read_header(path: Path) -> dict[str, TensorSpec]:
    """Names, shapes and precisions of the tensors in a safetensors file, without the numbers.

    Raises:
        InputError: no such format, a file or header that is too large, or sizes that are not those of the
            file.
    """
    try:
        length = path.stat().st_size
        if length > MAX_FILE_BYTES:
            raise InputError(f"{length} bytes, and the weights of a pair have at most {MAX_FILE_BYTES}")
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise InputError("damaged or of another format (no header of safetensors); save the pair again")
        with safe_open(path, framework="pt") as tensors:
            found = {}
            for name in tensors.keys():  # noqa: SIM118
                part = tensors.get_slice(name)
                found[name] = TensorSpec(tuple(part.get_shape()), part.get_dtype())
            return found
    except (OSError, SafetensorError) as error:
        raise InputError(f"damaged or of another format ({error}); save the pair again") from error


def check_tensors(found: Mapping[str, TensorSpec], expected: Mapping[str, torch.Tensor], mend: str) -> None:
    """Compare the tensors of a weights file with those of an architecture, by name, shape and precision.

    Args:
        found: in the file.
        expected: of the architecture; only shapes are looked at, so that they may lie on the device "meta".
        mend: the file to mend, for the message.

    Raises:
        InputError: a tensor is missing, unknown, of another shape or no floating-point one, or all are more
            than `MAX_PARAMETERS` numbers.
    """
    for problem, wrong in (
        ("is missing", expected.keys() - found.keys()),
        ("does not belong to this architecture", found.keys() - expected.keys()),
        (
            "has another shape",
            _where(found, lambda n, t: n in expected and t.shape != tuple(expected[n].shape)),
        ),
        ("is not floating-point", _where(found, lambda n, t: t.precision not in PRECISIONS)),
    ):
        if wrong:
            raise InputError(f"tensor {one_line(min(wrong))} {problem}; save the model again, or mend {mend}")
    total = sum(math.prod(tensor.shape) for tensor in found.values())
    if total > MAX_PARAMETERS:
        raise InputError(f"{total} numbers, and a pair has at most {MAX_PARAMETERS}")


def _where(found: Mapping[str, TensorSpec], wrong: Callable[[str, TensorSpec], bool]) -> set[str]:
    return {name for name, tensor in found.items() if wrong(name, tensor)}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file in float32, all of them finite.

    Raises:
        InputError: the file is damaged, or a tensor holds NaN or infinity (in float32).
    """
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensors[name] = file.get_tensor(name).float()
                if not tensors[name].isfinite().all():
                    raise InputError(f"tensor {name} is not finite; save the model again")
    except (OSError, SafetensorError) as error:
        raise InputError(f"damaged or of another format ({error}); save the pair again") from error
    return tensors
