"""Older formats of saved pairs, brought to the present one as they are read.

Version 1 (no "format_version" in config.json) left out every argument that had the builder's default. Those
defaults are recorded here and never change; version 2 names every argument.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from avse.data.errors import InputError

FORMAT_VERSION = 2
"""Of config.json, as it is written now."""

FIELDS = frozenset({"architecture", "arguments", "front_end", "lips", "algorithm"})
"""Of config.json, besides the format version."""

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

RENAMED_TENSORS = {
    "model.doubt.": "model.corruption_classifier.",
    ".odds.": ".logit.",
    ".unseen": ".missing_embedding",
}
"""Parts of tensor names in version 1 -> in version 2."""


def migrated_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of config.json in the present format, without the format version.

    Raises:
        InputError: a format version that is not known here, or a field that is unknown or missing.
    """
    fields = dict(values)
    version = fields.pop("format_version", 1)
    if version not in (1, FORMAT_VERSION):
        raise InputError(
            f"format version {version!r}, and this release of avse reads up to {FORMAT_VERSION}: update avse"
        )
    if version == 1:
        fields = _from_version_1(fields)
    unknown, missing = fields.keys() - FIELDS, FIELDS - fields.keys()
    if unknown or missing:
        raise InputError(
            f"unknown fields {sorted(unknown)}, missing fields {sorted(missing)}; save the pair again"
        )
    return fields


def _from_version_1(fields: dict[str, Any]) -> dict[str, Any]:
    arguments = {**VERSION_1_DEFAULTS.get(fields.get("architecture", ""), {}), **fields.get("arguments", {})}
    if fields.get("architecture") == "vae-mm":
        arguments["corruption_embedding_size"] = arguments.pop("doubt_size")
        arguments["first"] = {**_A_VAE, **(arguments["first"] or {})}
        arguments["second"] = {**_AV_VAE, **(arguments["second"] or {})}
    return {"lips": None, "algorithm": "mcem", **fields, "arguments": arguments}


def migrated_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their present names."""
    renamed = {}
    for name, tensor in weights.items():
        for old, new in RENAMED_TENSORS.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed
