"""Migration of saved pairs from older formats as they are read.

Version 1 (no "format_version" in config.json) left out every argument that had the builder's default. Those
defaults are recorded here and never change; version 2 names every argument. Version 3 renames "pictures" and
"spacing" of pixel front ends to "instants" and "step". Version 4 adds the context guide of A-VAEs, version 5
its refinement by the lips of a VAE-MM.
"""

import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from avse.data.errors import InputError

T = TypeVar("T")

FORMAT_VERSION = 5
"""Version of config.json that is written now."""

REVISION_DIGITS = 16
"""Hexadecimal digits of the revision, a hash of a saved pair's contents."""

MAX_NAME = 200
"""Characters of a name that a message gives in full."""

FIELDS = frozenset({"architecture", "arguments", "front_end", "lips", "algorithm"})
"""Of config.json, besides the format version and the revision of a saved pair."""

_A_VAE: dict[str, Any] = {
    "latent_size": 32,
    "encoder": [384, 384],
    "decoder": [256, 256],
    "features": "log-power",
    "encoder_activation": "tanh",
    "decoder_activation": "tanh",
}
_V_VAE: dict[str, Any] = {
    "latent_size": 32,
    "embedding_size": 128,
    "trunk": "shared",
    "encoder": [128],
    "decoder": [256, 256],
    "encoder_activation": "silu",
    "decoder_activation": "silu",
    "dropout": 0.4,
}
_AV_VAE: dict[str, Any] = {
    **_A_VAE,
    "embedding_size": 128,
    "trunk": "shared",
    "tied": True,
    "prior": "network",
    "prior_hidden": [128],
    "temperature": 1.0,
    "epsilon": 0.0,
    "decoder_activation": "silu",
    "dropout": 0.4,
}
_MIN_VAE: dict[str, Any] = {
    "version": 1,
    "latent_size": 32,
    "embedding_size": 128,
    "trunk": "shared",
    "visual_encoder": [128],
    "audio_encoder": [384, 384],
    "decoder": [256, 256],
    "features": "log-power",
    "visual_activation": "silu",
    "audio_activation": "tanh",
    "decoder_activation": "silu",
    "dropout": 0.4,
}
_VAE_MM: dict[str, Any] = {"first": None, "second": None, "pi": 0.5, "doubt_size": 64, "dropout": 0.2}

VERSION_1_DEFAULTS: dict[str, dict[str, Any]] = {
    "a-vae": _A_VAE,
    "v-vae": _V_VAE,
    "av-vae": _AV_VAE,
    "min-vae": _MIN_VAE,
    "vae-mm": _VAE_MM,
}

VERSION_1_STFT: dict[str, Any] = {"window_length": 1024, "hop_length": 533, "sample_rate": 16000}
VERSION_1_FRONT_END: dict[str, Any] = {"stft": VERSION_1_STFT, "level": "rms", "high_pass": 0.0}
VERSION_1_LIPS: dict[str, Any] = {"side": 24, "pictures": 15, "spacing": 0.04, "normalised": True}

RENAMED_TENSORS = {
    "model.doubt.": "model.corruption_classifier.",
    ".odds.": ".logit.",
    ".unseen": ".missing_embedding",
}
"""Parts of tensor names in version 1 -> in version 2."""


def migrated_config(values: Any) -> dict[str, Any]:
    """The fields of config.json in the present format, without format version and revision.

    Raises:
        InputError: no mapping, a format version that is not known here, a revision that is none, or an
            unknown, missing or repeated field.
    """
    if not isinstance(values, Mapping):
        raise InputError("no JSON object with the fields of a pair; save the pair again")
    fields = dict(values)
    version = fields.pop("format_version", 1)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise InputError(
            f"format version {shortened(version)}, and this release of avse reads 1 to {FORMAT_VERSION}: "
            "update avse"
        )
    revision = fields.pop("revision", None)
    if "revision" in values and not is_revision(revision):
        raise InputError(f"revision {shortened(revision)}: not {REVISION_DIGITS} hexadecimal digits")
    if version == 1:
        fields = _from_version_1(fields)
    if version <= 2:
        fields = _from_version_2(fields)
    if version <= 3:
        fields = _from_version_3(fields)
    if version <= 4:
        fields = _from_version_4(fields)
    check_names(fields, FIELDS, "fields")
    return fields


def is_revision(value: Any) -> bool:
    """Whether a value is the revision of a saved pair, `REVISION_DIGITS` lower-case hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{REVISION_DIGITS}}}", value) is not None


def check_names(found: Any, expected: Iterable[str], what: str) -> None:
    """Check that exactly the expected names are there.

    Raises:
        InputError: `found` is no mapping, or a name is unknown or missing; says how to mend it.
    """
    if not isinstance(found, Mapping):
        raise InputError(f"{what} {shortened(found)}: must be a JSON object; save the pair again")
    unknown, missing = found.keys() - set(expected), set(expected) - found.keys()
    if unknown or missing:
        raise InputError(
            f"{what}: unknown {shortened(sorted(map(str, unknown)))}, missing {shortened(sorted(missing))}; "
            "name every one of them, or save the pair again"
        )


def shortened(value: Any) -> str:
    """A `repr` that fits into one line, whatever the value."""
    return reprlib.repr(value)


def one_line(name: str) -> str:
    """A name for a message; one that is long or holds control characters as its shortened `repr`."""
    return name if len(name) <= MAX_NAME and name.isprintable() else shortened(name)


def _from_version_1(fields: dict[str, Any]) -> dict[str, Any]:
    architecture, own = fields.get("architecture"), fields.get("arguments", {})
    front_end, lips = fields.get("front_end"), fields.get("lips")
    if isinstance(architecture, str) and isinstance(own, Mapping):
        own = {**VERSION_1_DEFAULTS.get(architecture, {}), **own}
        if architecture == "vae-mm":
            own = _vae_mm_from_version_1(own)
    if isinstance(front_end, Mapping):
        front_end = {**VERSION_1_FRONT_END, **front_end}
        if isinstance(front_end["stft"], Mapping):
            front_end["stft"] = {**VERSION_1_STFT, **front_end["stft"]}
    if isinstance(lips, Mapping) and lips.keys() <= VERSION_1_LIPS.keys():
        lips = {**VERSION_1_LIPS, **lips}
    migrated = {"algorithm": "mcem", **fields, "arguments": own, "lips": lips}
    return migrated if front_end is None else {**migrated, "front_end": front_end}


RENAMED_LIPS = {"pictures": "instants", "spacing": "step"}
"""Settings of a pixel front end in version 2 -> in version 3."""


def _from_version_2(fields: dict[str, Any]) -> dict[str, Any]:
    lips = fields.get("lips")
    if not isinstance(lips, Mapping):
        return fields
    return {**fields, "lips": _renamed(lips, lambda name: RENAMED_LIPS.get(name, name))}


NO_CONTEXT: dict[str, Any] = {"context_channels": 0, "context_dilations": []}
"""Arguments of an A-VAE that versions 1 to 3 had not."""


def _from_version_3(fields: dict[str, Any]) -> dict[str, Any]:
    architecture, own = fields.get("architecture"), fields.get("arguments")
    if not isinstance(own, Mapping):
        return fields
    if architecture == "a-vae":
        own = {**NO_CONTEXT, **own}
    elif architecture in ("vae-mm", "a-v-av") and isinstance(own.get("first"), Mapping):
        own = {**own, "first": {**NO_CONTEXT, **own["first"]}}
    return {**fields, "arguments": own}


NO_REFINEMENT: dict[str, Any] = {
    "refinement_channels": 0,
    "refinement_embedding_size": 64,
    "refinement_dilations": [],
}
"""Arguments of a VAE-MM that versions 1 to 4 had not."""


def _from_version_4(fields: dict[str, Any]) -> dict[str, Any]:
    own = fields.get("arguments")
    if fields.get("architecture") != "vae-mm" or not isinstance(own, Mapping):
        return fields
    return {**fields, "arguments": {**NO_REFINEMENT, **own}}


def _vae_mm_from_version_1(own: dict[str, Any]) -> dict[str, Any]:
    own = _renamed(own, lambda name: "corruption_embedding_size" if name == "doubt_size" else name)
    for name, defaults in (("first", _A_VAE), ("second", _AV_VAE)):
        if own[name] is None or isinstance(own[name], Mapping):
            own[name] = {**defaults, **(own[name] or {})}
    return own


def migrated_weights(weights: Mapping[str, T]) -> dict[str, T]:
    """Tensors, or what is known of them, under their present names.

    Raises:
        InputError: a tensor has both its old and its present name.
    """

    def present(name: str) -> str:
        for old, new in RENAMED_TENSORS.items():
            name = name.replace(old, new)
        return name

    return _renamed(weights, present)


def _renamed(values: Mapping[str, T], present: Callable[[str], str]) -> dict[str, T]:
    """Values under their present names, of which none may have two."""
    renamed: dict[str, T] = {}
    for old, value in values.items():
        name = present(old)
        if name in renamed:
            raise InputError(f"{one_line(name)} has its old and its present name; save the pair again")
        renamed[name] = value
    return renamed
