"""A trained model with its guide and all that is needed to use them: the unit that is saved and loaded.

A saved pair is a folder: `config.json` (format version, architecture with all arguments of its builder,
STFT, level), `model.safetensors` (weights in float16) and `README.md` (the model card). Any folder or
Hugging Face repository of that form loads; older format versions are migrated as they are read
(`avse.zoo.migration`).
"""

import copy
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.shape_front_end import LipView, lip_view
from avse.data.stft import STFT
from avse.guides.base import SpeechGuide
from avse.models.base import SpeechModel
from avse.zoo.architectures import ARCHITECTURES, NESTED_ARGUMENTS
from avse.zoo.migration import FORMAT_VERSION, migrated_config, migrated_weights

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"


@dataclass(frozen=True)
class PairConfig:
    """What a pair is, in plain values.

    Attributes:
        architecture: name of a builder in `avse.zoo.architectures`.
        arguments: what the builder is called with, besides bins and lip front end. Those that are left out
            take the builder's defaults; a saved pair names every one of them.
        front_end: STFT, high-pass and level that the models were trained with.
        lips: how they are given to a model that uses them; None for one that does not.
        algorithm: the schedule that suits the pair best, a name in `avse.inference.presets.PRESETS`.
    """

    architecture: str
    arguments: dict[str, Any]
    front_end: FrontEnd
    lips: LipView | None = None
    algorithm: str = "mcem"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PairConfig":
        """The inverse of `to_dict`, for values of any format version.

        Raises:
            InputError: a field or a builder's argument is missing or unknown, or the format is too new.
            KeyError, TypeError, ValueError: a value is not as it should be.
        """
        values = migrated_config(values)
        front_end = dict(values["front_end"])
        front_end["stft"] = STFT(**front_end["stft"])
        lips = values["lips"]
        config = cls(
            values["architecture"],
            dict(values["arguments"]),
            FrontEnd(**front_end),
            None if lips is None else lip_view(lips),
            values["algorithm"],
        )
        _check_arguments(config.architecture, config.arguments)
        return config

    def completed(self) -> "PairConfig":
        """The same configuration with every default of the builder written out."""
        return replace(self, arguments=_completed(self.architecture, self.arguments))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: format version and all fields, every argument of the builder among them."""
        return {"format_version": FORMAT_VERSION, **asdict(self.completed())}


def builder_arguments(architecture: str) -> dict[str, Any]:
    """Names and defaults of what a builder takes, besides bins and lips.

    Raises:
        InputError: an unknown architecture.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"unknown architecture {architecture!r}: use one of {', '.join(ARCHITECTURES)}")
    parameters = inspect.signature(ARCHITECTURES[architecture]).parameters
    return {name: p.default for name, p in parameters.items() if name not in ("bins", "lips")}


def _completed(architecture: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """All arguments of a builder, nested ones too."""
    whole = {**builder_arguments(architecture), **(arguments or {})}
    nested = NESTED_ARGUMENTS.get(architecture, {})
    return {
        name: _completed(nested[name], value) if name in nested else value for name, value in whole.items()
    }


def _check_arguments(architecture: str, arguments: Mapping[str, Any]) -> None:
    """Raise `InputError` unless exactly the arguments of the builder are there."""
    expected = builder_arguments(architecture)
    unknown, missing = arguments.keys() - expected.keys(), expected.keys() - arguments.keys()
    if unknown or missing:
        raise InputError(
            f"arguments of {architecture}: unknown {sorted(unknown)}, missing {sorted(missing)}; "
            "PairConfig.completed() names every one of them"
        )
    for name, nested in NESTED_ARGUMENTS.get(architecture, {}).items():
        _check_arguments(nested, arguments[name])


class SpeechPair(ModelHubMixin):
    """A model p(s, z | v) and its guide q(z | s, v).

    Attributes:
        config: how they are built and what spectra they expect.
        model: the speech model.
        guide: the guide.
        card: text of the model card, Markdown.
        name: of a pair in the zoo, or the folder that it was loaded from; else that of its architecture.
    """

    def __init__(self, config: PairConfig, card: str = "", name: str = "") -> None:
        builder_arguments(config.architecture)  # refuses an unknown one
        self.config = config
        self.card = card
        self.name = name or config.architecture
        self.model: SpeechModel
        self.guide: SpeechGuide
        seen = {} if config.lips is None else {"lips": config.lips}
        self.model, self.guide = ARCHITECTURES[config.architecture](
            bins=config.front_end.stft.bins, **seen, **config.arguments
        )

    def __repr__(self) -> str:
        """Name, architecture, bins and lips in one line."""
        lips = "no lips" if self.config.lips is None else type(self.config.lips).__name__
        bins = self.config.front_end.stft.bins
        return f"SpeechPair({self.name!r}, {self.config.architecture}, {bins} bins, {lips})"

    @property
    def stft(self) -> STFT:
        """The short-time Fourier transform that the pair was trained with."""
        return self.config.front_end.stft

    def modules(self) -> nn.ModuleDict:
        """Model and guide under the names that their weights are saved by."""
        return nn.ModuleDict({"model": self.model, "guide": self.guide})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((tensor.device for tensor in self.modules().state_dict().values()), torch.device("cpu"))

    def to(self, device: str | torch.device) -> "SpeechPair":
        """Move both to a device; returns self."""
        self.modules().to(device)
        return self

    def on(self, device: str | torch.device | None) -> "SpeechPair":
        """This pair if it is on `device` (or `device` is None), else a copy of it there."""
        if device is None or torch.device(device) == self.device:
            return self
        return copy.deepcopy(self).to(device)

    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and values of the weights as they are saved (float16)."""
        digest = hashlib.sha256()
        for name, tensor in sorted(_tensors(self.modules()).items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().half().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = {name: tensor.half().contiguous() for name, tensor in _tensors(self.modules()).items()}
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} is not finite in float16: training diverged")
        save_file(weights, save_directory / WEIGHTS)
        config = json.dumps(self.config.to_dict(), indent=1)
        (save_directory / CONFIG).write_text(config + "\n", encoding="utf-8")
        (save_directory / CARD).write_text(self.card, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "SpeechPair":
        """The pair in a local folder, or in a repository of the Hugging Face hub."""
        if Path(pretrained_model_name_or_path).is_dir():
            return load_folder(Path(pretrained_model_name_or_path))
        pair: SpeechPair = super().from_pretrained(str(pretrained_model_name_or_path), **kwargs)
        return pair

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> "SpeechPair":
        return load_folder(
            Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
        )


def load_folder(folder: Path, name: str = "") -> SpeechPair:
    """The pair saved in a folder, in evaluation mode and float32.

    Args:
        folder: holds config.json and model.safetensors.
        name: of the pair; by default the path of the folder.

    Raises:
        InputError: a file is missing or cannot be read, or a tensor is missing, unknown or of another shape;
            names the file and the tensor.
    """
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    with torch.random.fork_rng(devices=[]):  # the networks start at random, only to be overwritten
        pair = _read(
            folder / CONFIG,
            lambda path: SpeechPair(
                PairConfig.from_dict(json.loads(path.read_text(encoding="utf-8"))), card, name or str(folder)
            ),
        )
    weights = migrated_weights(_read(folder / WEIGHTS, load_file))
    expected = _tensors(pair.modules())
    for problem, names in (
        ("is missing", expected.keys() - weights.keys()),
        ("does not belong to this architecture", weights.keys() - expected.keys()),
        (
            "has another shape",
            {n for n in expected.keys() & weights.keys() if expected[n].shape != weights[n].shape},
        ),
    ):
        if names:
            raise InputError(
                f"{folder / WEIGHTS}: tensor {min(names)} {problem}; save the model again, or mend {CONFIG}"
            )
    modules = pair.modules()
    modules.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    modules.float().eval().requires_grad_(False)
    return pair


def _tensors(modules: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor of the modules, once; one that several modules share under the first of its names."""
    first: dict[int, str] = {}
    state = modules.state_dict(keep_vars=True)
    own = {name: tensor for name, tensor in state.items() if first.setdefault(id(tensor), name) == name}
    return {name: tensor.detach() for name, tensor in own.items()}


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file; a model folder holds {CONFIG} and {WEIGHTS}")
    try:
        return reader(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        raise InputError(f"{path}: damaged or of another format ({error}); save the model again") from error
