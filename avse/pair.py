"""A trained model with its guide and all that is needed to use them: the unit that is saved and loaded.

A saved pair is a folder: `config.json` (architecture, STFT, level), `model.safetensors` (weights in float16)
and `README.md` (the model card). Any folder or Hugging Face repository of that form loads.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from avse.architectures import ARCHITECTURES
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lip_shape_front_end import LipView, lip_view
from avse.data.stft import STFT
from avse.guides.guide import SpeechGuide
from avse.models.speech import SpeechModel

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"


@dataclass(frozen=True)
class PairConfig:
    """What a pair is, in plain values.

    Attributes:
        architecture: name of a builder in `avse.architectures`.
        arguments: what the builder was called with, besides the number of bins.
        front_end: STFT, high-pass and level that the models were trained with.
        lips: how they are shown to a model that looks at them; None for one that does not.
        algorithm: the schedule that suits the pair best, a name in `avse.enhance.ALGORITHMS`.
    """

    architecture: str
    arguments: dict[str, Any]
    front_end: FrontEnd
    lips: LipView | None = None
    algorithm: str = "mcem"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PairConfig":
        """The inverse of `dataclasses.asdict`.

        Raises:
            KeyError, TypeError, ValueError: something is missing or not as it should be.
        """
        front_end = dict(values["front_end"])
        front_end["stft"] = STFT(**front_end["stft"])
        lips = values.get("lips")
        return cls(
            values["architecture"],
            dict(values["arguments"]),
            FrontEnd(**front_end),
            None if lips is None else lip_view(lips),
            values.get("algorithm", cls.algorithm),
        )


class SpeechPair(ModelHubMixin):
    """A model p(s, z | v) and its guide q(z | s, v).

    Attributes:
        config: how they are built and what spectra they expect.
        model: the speech model.
        guide: the guide.
        card: text of the model card, Markdown.
    """

    def __init__(self, config: PairConfig, card: str = "") -> None:
        if config.architecture not in ARCHITECTURES:
            raise InputError(
                f"unknown architecture {config.architecture!r}: use one of {', '.join(ARCHITECTURES)}"
            )
        self.config = config
        self.card = card
        self.model: SpeechModel
        self.guide: SpeechGuide
        seen = {} if config.lips is None else {"lips": config.lips}
        self.model, self.guide = ARCHITECTURES[config.architecture](
            bins=config.front_end.stft.bins, **seen, **config.arguments
        )

    @property
    def stft(self) -> STFT:
        """The short-time Fourier transform that the pair was trained with."""
        return self.config.front_end.stft

    def modules(self) -> nn.ModuleDict:
        """Model and guide under the names that their weights are saved by."""
        return nn.ModuleDict({"model": self.model, "guide": self.guide})

    def to(self, device: str | torch.device) -> "SpeechPair":
        """Move both to a device; returns self."""
        self.modules().to(device)
        return self

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = {name: tensor.half().contiguous() for name, tensor in _tensors(self.modules()).items()}
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} is not finite in float16: training diverged")
        save_file(weights, save_directory / WEIGHTS)
        (save_directory / CONFIG).write_text(json.dumps(asdict(self.config), indent=1) + "\n")
        (save_directory / CARD).write_text(self.card)

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


def load_folder(folder: Path) -> SpeechPair:
    """The pair saved in a folder, in evaluation mode and float32.

    Raises:
        InputError: a file is missing or cannot be read, or a tensor is missing, unknown or of another shape;
            names the file and the tensor.
    """
    card = (folder / CARD).read_text() if (folder / CARD).is_file() else ""
    with torch.random.fork_rng(devices=[]):  # the networks start at random, only to be overwritten
        pair = _read(
            folder / CONFIG, lambda path: SpeechPair(PairConfig.from_dict(json.loads(path.read_text())), card)
        )
    weights = _read(folder / WEIGHTS, load_file)
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
    modules.eval().requires_grad_(False)
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
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        raise InputError(f"{path}: damaged or of another format ({error}); save the model again") from error
