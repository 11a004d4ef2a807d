"""A trained model with its guide and all that is needed to use them: the unit that is saved and loaded.

A saved pair is a folder: `config.json` (format version, architecture with all arguments of its builder,
STFT, level), `model.safetensors` (weights in float16) and `README.md` (the model card). Any folder or
Hugging Face repository of that form loads; older format versions are migrated as they are read
(`avse.zoo.migration`).
"""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save
from torch import nn

from avse.data.errors import InputError
from avse.data.files import atomic_path, made_folder
from avse.data.front_end import FrontEnd
from avse.data.lips.shape_front_end import LipView, lip_view
from avse.data.stft import STFT
from avse.guides.base import SpeechGuide
from avse.guides.programs import speech_guide
from avse.inference.location import location
from avse.models.base import SpeechModel
from avse.zoo.architectures import ARCHITECTURES, NESTED_ARGUMENTS
from avse.zoo.card import with_front_matter
from avse.zoo.migration import (
    FORMAT_VERSION,
    REVISION_DIGITS,
    check_names,
    is_revision,
    migrated_config,
    migrated_weights,
    one_line,
    shortened,
)
from avse.zoo.shipped import shipped
from avse.zoo.structure import first_difference
from avse.zoo.validation import (
    MAX_CARD_BYTES,
    builder_arguments,
    check_algorithm,
    check_architecture,
    check_front_end,
    check_level,
    check_lips,
    check_number,
    check_stft,
    check_tensors,
    read_header,
    read_json,
    read_tensors,
    read_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"

WITHOUT_AMORTISATION = {
    "amortised": "mcem",
    "amortised-lips": "mcem-mixture",
    "mcem-anchored": "mcem-mixture",
}
"""Presets whose result is that of a trained guide -> those that ask the model for the same pairs."""
MAX_REASON = 300
"""Characters of the hub's answer in a message."""


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
    def from_dict(cls, values: Any) -> "PairConfig":
        """The inverse of `to_dict`, for values of any format version.

        Raises:
            InputError: a field or a builder's argument is missing, unknown, of another type or out of range,
                or the format is too new.
        """
        values = migrated_config(values)
        front_end, lips = values["front_end"], values["lips"]
        check_names(front_end, _field_names(FrontEnd), "front_end")
        check_names(front_end["stft"], _field_names(STFT), "stft")
        check_stft(**front_end["stft"])
        check_level(front_end["level"])
        if lips is not None:
            check_lips(lips)
        check_number(front_end["high_pass"], "high_pass", 0.0, front_end["stft"]["sample_rate"] / 2)
        config = cls(
            values["architecture"],
            values["arguments"],
            FrontEnd(**{**front_end, "stft": STFT(**front_end["stft"])}),
            None if lips is None else lip_view(lips),
            values["algorithm"],
        )
        check_names(
            config.arguments, builder_arguments(config.architecture), f"arguments of {config.architecture}"
        )
        config.check()
        return config

    def check(self) -> None:
        """Check every value, before anything is built.

        Raises:
            InputError: an unknown architecture, argument or algorithm, or a value of another type or out of
                range; names it.
        """
        check_architecture(self.architecture, _completed(self.architecture, self.arguments), self.lips)
        check_front_end(self.front_end)
        if self.lips is not None:
            check_lips(asdict(self.lips))
        check_algorithm(self.algorithm)

    def completed(self) -> "PairConfig":
        """The same configuration with every default of the builder written out."""
        return replace(self, arguments=_completed(self.architecture, self.arguments))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: format version and all fields, every argument of the builder among them."""
        return {"format_version": FORMAT_VERSION, **asdict(self.completed())}


def _field_names(settings: type) -> set[str]:
    return {field.name for field in fields(settings)}


def _completed(architecture: str, arguments: Any) -> dict[str, Any]:
    """All arguments of a builder, nested ones too."""
    if not isinstance(arguments, Mapping | None):
        raise InputError(f"arguments of {architecture} {shortened(arguments)}: must be a mapping")
    whole = {**builder_arguments(architecture), **(arguments or {})}
    nested = NESTED_ARGUMENTS.get(architecture, {})
    return {
        name: _completed(nested[name], value) if name in nested else value for name, value in whole.items()
    }


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
        config.check()
        self.config = config
        self.card = card
        self.name = name or config.architecture
        self.model: SpeechModel
        self.guide: SpeechGuide
        visual = {} if config.lips is None else {"lips": config.lips}
        self.model, self.guide = ARCHITECTURES[config.architecture](
            bins=config.front_end.stft.bins, **visual, **config.arguments
        )

    def __repr__(self) -> str:
        """Name, architecture, bins and lips in one line."""
        lips = "no lips" if self.config.lips is None else type(self.config.lips).__name__
        bins = self.config.front_end.stft.bins
        return f"SpeechPair({self.name!r}, {self.config.architecture}, {bins} bins, {lips})"

    def _facts(self) -> dict[str, str]:
        """What the pair is, in words."""
        stft, lips = self.stft, self.config.lips
        count = sum(tensor.numel() for tensor in self.modules().state_dict().values())
        heading = next((line for line in self.card.splitlines() if line.startswith("# ")), "")
        return {
            "name": self.name,
            "purpose": heading.partition(": ")[2],
            "architecture": self.config.architecture,
            "numbers in the weights": f"{count:,}",
            "spectra": f"{stft.bins} bins, {stft.frame_rate:.4g} frames per second at {stft.sample_rate} Hz",
            "lips": "none" if lips is None else repr(lips),
            "algorithm": self.config.algorithm,
        }

    def plot_model(self, axes: "Axes | None" = None, part: str = "noisy") -> "Axes":
        """Draw the plate diagram, by `avse.show`, on new axes if none are given; returns the axes.

        Args:
            axes: to draw on.
            part: "noisy" for noisy speech, "speech" for clean speech, or "guide".

        Raises:
            InputError: another part, or there is no Graphviz (extra `show`).
        """
        from avse.story import show

        return show(self).plot(axes, part)

    def _repr_html_(self) -> str:
        """For a notebook: what the pair is, and its generative story with the plate diagrams."""
        from avse.data.notebook import facts, folded, section
        from avse.story import show

        story = folded("generative story", show(self)._repr_html_())
        return section(f"SpeechPair {self.name}", facts(self._facts(), "model and guide"), story)

    @property
    def stft(self) -> STFT:
        """The short-time Fourier transform that the pair was trained with."""
        return self.config.front_end.stft

    def modules(self) -> nn.ModuleDict:
        """Model and guide under the names that their weights are saved by."""
        return nn.ModuleDict({"model": self.model, "guide": speech_guide(self.guide, self.model)})

    def requires_grad_(self, requires_grad: bool = True) -> "SpeechPair":
        """Make all weights of model and guide trainable, or freeze them; returns self.

        A loaded pair is frozen and in evaluation mode. To fine-tune it, with dropout where it has any:

            pair = avse.load("a-vae").requires_grad_()
            pair.modules().train()
            svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-4}), Trace_ELBO())

        Args:
            requires_grad: as in `torch.nn.Module.requires_grad_`.
        """
        self.modules().requires_grad_(requires_grad)
        return self

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

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Save config.json, model.safetensors and README.md; what is there before is replaced as a whole.

        A process that is killed at any moment leaves the older pair or this one. Weights and card are
        written beside the older ones first, under names that hold the revision, a hash of the contents.
        config.json, which names the revision, is then replaced in one step, and the others follow; until
        they have, `load_folder` goes by the names with the revision.

        Args:
            save_directory: the folder, made where missing; other files in it are left alone.
            kwargs: `repo_id`, `push_to_hub` and what `push_to_hub` takes, as in `ModelHubMixin`.

        Raises:
            InputError: the folder cannot be written, weights are not finite: training diverged, or a part
                of model or guide is not what the configuration builds (`check_restorable`).
        """
        folder = made_folder(save_directory)
        self._save_pretrained(folder)
        if not kwargs.pop("push_to_hub", False):
            return None
        repo_id = kwargs.pop("repo_id", None) or folder.name
        return str(self.push_to_hub(repo_id=repo_id, **kwargs))

    def check_restorable(self) -> None:
        """Check that a saved copy would be reloaded as this pair: no part was replaced since it was built.

        Raises:
            InputError: model or guide are not what the configuration builds; names the part.
        """
        difference = self.difference()
        if difference is not None:
            raise InputError(
                f"{difference}: it would be lost when the pair is loaded again; register a function that "
                "builds this model and guide (avse.zoo.architectures.register) and make the pair from its "
                "name, SpeechPair(PairConfig(name, arguments, front_end))"
            )

    def difference(self) -> str | None:
        """The first part that is not as the configuration builds it, in words; None if all are."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            built = SpeechPair(self.config).modules()
        return first_difference(self.modules(), built)

    @property
    def algorithm(self) -> str:
        """The preset of the configuration, or one that asks the model, for a pair whose parts were changed.

        A guide that was trained for one model answers for that model alone: with another prior or decoder,
        amortised inference would take no notice of it.
        """
        asking = WITHOUT_AMORTISATION.get(self.config.algorithm)
        return self.config.algorithm if asking is None or self.difference() is None else asking

    def _save_pretrained(self, save_directory: Path) -> None:
        self.check_restorable()
        weights = {name: tensor.half().contiguous() for name, tensor in _tensors(self.modules()).items()}
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise InputError(f"{name} is not finite in float16: training diverged, nothing was saved")
        config = self.config.to_dict()
        contents = {
            WEIGHTS: save(weights),
            CARD: with_front_matter(self.card, self.config, self.name).encode("utf-8"),
        }
        digest = hashlib.sha256(json.dumps(config).encode("utf-8"))
        for content in contents.values():
            digest.update(content)
        revision = digest.hexdigest()[:REVISION_DIGITS]
        for name, content in contents.items():
            _write(_pending(save_directory / name, revision), content)
        whole = {"format_version": config.pop("format_version"), "revision": revision, **config}
        _write(save_directory / CONFIG, (json.dumps(whole, indent=1) + "\n").encode("utf-8"))
        for name in contents:
            _pending(save_directory / name, revision).replace(save_directory / name)
            for left in save_directory.glob(_pending(Path(name), "[0-9a-f]" * REVISION_DIGITS).name):
                left.unlink(missing_ok=True)  # of a process that was killed

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> "SpeechPair":
        """The pair of a name in the zoo, in a local folder, or in a repository of the Hugging Face hub.

        No network is used for the first two. The other arguments concern the hub.

        Raises:
            InputError: no such pair, the hub cannot be reached, or a file is damaged.
        """
        name = str(pretrained_model_name_or_path)
        if name in shipped():
            return load_folder(shipped()[name], name)
        if os.path.isdir(name):
            return load_folder(Path(name))
        try:
            folder = snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[CONFIG, WEIGHTS, CARD],
            )
        except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError) as error:
            raise InputError(
                f"{one_line(name)}: neither a shipped model ({', '.join(shipped())}), nor a folder, nor a "
                f"repository that can be reached ({str(error).splitlines()[0][:MAX_REASON]})"
            ) from error
        return load_folder(Path(folder), name)


def _pending(path: Path, revision: str) -> Path:
    """Where a file lies until config.json of its revision is there: model.0123456789abcdef.safetensors."""
    return path.with_name(f"{path.stem}.{revision}{path.suffix}")


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_folder(folder: Path, name: str = "") -> SpeechPair:
    """The pair saved in a folder, in evaluation mode and float32. No code in the folder is run.

    Configuration, sizes, types and finiteness are checked before the networks are built.

    Args:
        folder: holds config.json and model.safetensors.
        name: of the pair; by default the path of the folder.

    Raises:
        InputError: a file is missing or cannot be read, a value is out of range, a tensor is missing,
            unknown, of another shape or not finite, or what the model gives is not finite; names the file
            and the tensor.
    """
    path = folder / CONFIG
    values = _read(path, read_json)
    config = _named(path, lambda: PairConfig.from_dict(values))
    card_path, weights_path = (_current(folder / file, values.get("revision")) for file in (CARD, WEIGHTS))
    card = _read(card_path, partial(read_text, largest=MAX_CARD_BYTES)) if os.path.lexists(card_path) else ""
    header = _read(weights_path, lambda file: migrated_weights(read_header(file)))
    with torch.random.fork_rng(devices=[]):  # the networks start at random, only to be overwritten
        with torch.device("meta"):
            expected = _tensors(_named(path, lambda: SpeechPair(config)).modules())
        _named(weights_path, lambda: check_tensors(header, expected, CONFIG))
        weights = _read(weights_path, lambda file: migrated_weights(read_tensors(file)))
        pair = _named(path, lambda: SpeechPair(config, card, name or str(folder)))
    modules = pair.modules()
    modules.load_state_dict(weights, strict=False)
    modules.float().eval().requires_grad_(False)
    _named(weights_path, lambda: _check_spectrum(pair))
    return pair


def _check_spectrum(pair: SpeechPair) -> None:
    """Check that a frame of white noise is encoded and decoded to finite numbers, without lips to be seen.

    Raises:
        InputError: they are not, as after a training that diverged.
    """
    single = torch.float32  # that of the weights, whatever the default is
    power = torch.ones(1, pair.stft.bins, dtype=single)
    visual = None if pair.config.lips is None else torch.zeros(1, pair.config.lips.size, dtype=single)
    finite = False
    with torch.no_grad(), suppress(ValueError):  # of a distribution whose parameters are NaN
        z = location(speech_guide(pair.guide, pair.model).posterior(power, visual))
        given = pair.model.given(visual)
        finite = all(bool(given(own).log_variance.exp().isfinite().all()) for own in (z, -z))
    if not finite:
        raise InputError(
            "the model gives no finite spectrum with these weights: training diverged, train it again"
        )


def _current(path: Path, revision: Any) -> Path:
    """The file of a revision, which has its final name unless a process was killed while it saved."""
    if is_revision(revision):
        pending = _pending(path, revision)
        if pending.is_file():
            return pending
    return path


def _tensors(modules: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor of the modules, once; one that several modules share under the first of its names."""
    first: dict[int, str] = {}
    state = modules.state_dict(keep_vars=True)
    own = {name: tensor for name, tensor in state.items() if first.setdefault(id(tensor), name) == name}
    return {name: tensor.detach() for name, tensor in own.items()}


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    if not path.is_file():
        raise InputError(f"{path}: no such file; a model folder holds {CONFIG} and {WEIGHTS}")
    return _named(path, lambda: reader(path))


def _named(path: Path, step: Callable[[], T]) -> T:
    """What a step gives; its errors name the file."""
    try:
        return step()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
