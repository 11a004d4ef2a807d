"""ArviZ's view of a posterior: an InferenceData of ArviZ 0.x, an xarray DataTree of ArviZ 1.x.

    idata = posterior.to_inference_data(pair.model, power, visual, stft=pair.stft)
    az.summary(idata, var_names=["speech_level", "mean_wiener_gain"])
    az.plot_trace(idata, var_names=["speech_level"]); az.plot_energy(idata); az.loo(idata)

One channel of N frames and F bins; C chains of D draws; A values of alpha; K components of the noise.

    posterior             speech_level, in dB, and mean_wiener_gain (chain, draw): of the whole recording
                          functionals (chain, draw, frame) or (chain, draw, frame, one more)
                          alpha (chain, draw, frame, component): p(alpha | x, z) of every draw
                          W (chain, draw, noise_component, frequency) and H (chain, draw, noise_component,
                          frame), perhaps g (chain, draw, frame), where the noise is sampled
                          z (chain, draw, frame, latent)
    sample_stats          lp, energy, diverging (chain, draw): of all frames together, as ArviZ's functions
                          need them: sums of log p(x, z | v) and of the Hamiltonian, and whether the
                          transition to the draw diverged in any frame. Where W and H are sampled there is no
                          lp, since their prior is not a part of a posterior
                          frame_lp, frame_energy, frame_diverging (chain, draw, frame): of every frame
                          step_size (chain, draw, frame): the same for all draws
    log_likelihood        x (chain, draw, frame): log p(x_n | z_n), alpha summed out; or of every bin
    posterior_predictive  x (chain, draw, frame, frequency): replicates of |x|^2 given some of the draws
    observed_data         x (frame, frequency): |x|^2
    constant_data         wiener_gain, speech_std, noise_variance (frame, frequency); responsibilities
                          (component, frame); acceptance_rate, frame_gain, visual_weight (frame): what has no
                          draws. With a sampled noise, noise_variance is that of `Posterior.noise`

Where the transform is given, frame has its times in s as coordinate, and frequency its values in Hz:
idata.posterior.sel(frame=0.5, method="nearest").

lp, frame_lp, log_likelihood, posterior_predictive, alpha and the scalars of the recording need the speech
model and the power of the recording.

`az.loo` leaves out what one entry of log_likelihood stands for. By default that is a frame. Since every frame
has a z of its own, its posterior without the frame is its prior, far from the draws: nearly every Pareto k is
above 0.7, and `avse.evaluation.posterior.evidence.frame_evidence` estimates the same quantity well. With
`pointwise="bin"` it is one bin of a frame, p(x_fn | x_n without f, z_n), which the other bins predict.

The recording has thousands of z: `az.summary(idata)` and `az.plot_trace(idata)` then take minutes, of which
`var_names` spares all but the quantities of interest. `az.loo` computes the effective sample size of all
variables first, unless it gets `reff`.
"""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.data.stft import STFT
from avse.inference.responsibilities import draw_component
from avse.models.base import SpeechModel
from avse.models.coupling import check_alpha
from avse.models.distributions import PowerSpectrum
from avse.models.networks.lips import cached_embeddings
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoiseModel, NoisySpeech
from avse.models.sites import ALPHA, G, H, W, X, Z

if TYPE_CHECKING:
    import xarray

    from avse.inference.posterior import Posterior

Tree: TypeAlias = Any
"""An `arviz.InferenceData` of ArviZ 0.x, or an `xarray.DataTree` of ArviZ 1.x."""
SAMPLE = ("chain", "draw")
COMPONENT = "component"
"""Name of the dimension over the values of alpha."""
NOISE_COMPONENT = "noise_component"
"""Name of the dimension over the components of the noise."""
LAST_DIMENSIONS = {"level": "band", ALPHA: COMPONENT}
"""Names of the last dimension of functionals with more than one number per frame."""
NOISE_DIMENSIONS = {W: (NOISE_COMPONENT, "frequency"), H: (NOISE_COMPONENT, "frame"), G: ("frame",)}
"""Dimensions of the sites of a sampled noise."""

BATCH_SIZE = 2**20
"""Number of bins that are evaluated together, which limits the memory."""

Pointwise = Literal["frame", "bin"]
"""What one entry of the log likelihood stands for."""


class Draws(NamedTuple):
    """What follows from R draws, for channels *: N frames, F bins.

    Attributes:
        log_joint: log p(x, z | v), (R, *, N).
        log_likelihood: log p(x_n | z_n), (R, *, N), or of every bin given the others, (R, *, N, F).
        alpha: p(alpha | x, z), (A, R, *, N).
        speech_level: level of the speech in dB relative to the level of the training data, (R, *).
        mean_wiener_gain: mean over frames and bins, (R, *).
        variance: of the noisy speech, (A, R, *, N, F).
    """

    log_joint: Tensor
    log_likelihood: Tensor
    alpha: Tensor
    speech_level: Tensor
    mean_wiener_gain: Tensor
    variance: Tensor


def to_inference_data(
    posterior: "Posterior",
    speech: SpeechModel | None,
    power: Tensor | None,
    visual: Tensor | None,
    *,
    channel: int,
    functionals: Mapping[str, Tensor] | None,
    stft: STFT | None,
    coords: Mapping[str, Any] | None,
    pointwise: Pointwise,
    predictive_draws: int,
    seed: int,
) -> Tree:
    """As `Posterior.to_inference_data`, which has the defaults."""
    if speech is not None and power is None:
        raise InputError("the likelihood of a speech model needs the power of the recording")
    groups: dict[str, dict[str, Any]] = {
        "posterior": {},
        "sample_stats": _sample_stats(posterior, channel),
        "log_likelihood": {},
        "posterior_predictive": {},
        "observed_data": {},
        "constant_data": _constants(posterior, channel),
    }
    own = _functionals(posterior, functionals or {}, channel)
    sites = _sites(posterior, channel)
    if power is not None:
        groups["observed_data"][X] = (("frame", "frequency"), _select(power, 0, 2, channel))
    predictive: list[int] = []
    if speech is not None and power is not None:
        draws, replicates, predictive = _evaluated(
            posterior, speech, power, visual, channel, pointwise, predictive_draws, seed
        )
        scalars = {name: (SAMPLE, draws[name]) for name in ("speech_level", "mean_wiener_gain")}
        if draws[ALPHA].shape[-1] > 1:
            own.setdefault(ALPHA, ((*SAMPLE, "frame", COMPONENT), draws[ALPHA]))
        groups["posterior"] |= scalars
        log_joint = draws["log_joint"]
        stats = {"lp": (SAMPLE, log_joint.sum(-1)), "frame_lp": ((*SAMPLE, "frame"), log_joint)}
        if posterior.noise_draws is not None:
            del stats["lp"]
        groups["sample_stats"] = stats | groups["sample_stats"]
        dims = ("frame",) if pointwise == "frame" else ("frame", "frequency")
        groups["log_likelihood"][X] = ((*SAMPLE, *dims), draws["log_likelihood"])
        groups["posterior_predictive"][X] = ((*SAMPLE, "frame", "frequency"), replicates)
    groups["posterior"] |= {**own, **sites}

    axes = _axes(posterior, stft) | dict(coords or {})
    by_group = dict.fromkeys(groups, axes) | {"posterior_predictive": axes | {"draw": predictive}}
    attributes: dict[str, Any] = {"costs": list(posterior.costs), "gain_floor": posterior.gain_floor}
    if posterior.converged is not None:
        attributes["converged"] = int(posterior.converged)
    return _tree(
        {name: _dataset(found, by_group[name]) for name, found in groups.items() if found}, attributes
    )


def _dataset(variables: Mapping[str, Any], axes: Mapping[str, Any]) -> "xarray.Dataset":
    """Variables with the coordinates of their dimensions; those without a coordinate are numbered."""
    import xarray

    dataset = xarray.Dataset(variables)
    coords: dict[Hashable, Any] = {
        dim: axes.get(str(dim), np.arange(size)) for dim, size in dataset.sizes.items()
    }
    return dataset.assign_coords(coords)


def _tree(groups: Mapping[str, "xarray.Dataset"], attributes: Mapping[str, Any]) -> Tree:
    """The container that the installed ArviZ works on."""
    import arviz as az

    groups["posterior"].attrs.update(attributes)
    if int(az.__version__.partition(".")[0]) < 1:
        return az.InferenceData(**groups)
    import xarray

    return xarray.DataTree.from_dict(dict(groups))


def _axes(posterior: "Posterior", stft: STFT | None) -> dict[str, Any]:
    """Coordinates in Hz and s where the transform is known."""
    if stft is None:
        return {}
    frames, bins = posterior.wiener_gain.shape[-2:]
    spacing = stft.sample_rate / stft.window_length
    times = stft.frame_times(frames).numpy().astype(np.float64).round(6)  # short in ArviZ's labels
    return {
        "frequency": ("frequency", spacing * np.arange(bins), {"units": "Hz"}),
        "frame": ("frame", times, {"units": "s"}),
    }


def _select(values: Tensor, before: int, after: int, channel: int) -> NDArray[Any]:
    """Flatten the dimensions between the first `before` and the last `after`, and select index `channel`."""
    inner = values.reshape(*values.shape[:before], -1, *values.shape[values.dim() - after :])
    return inner.select(before, channel).detach().cpu().numpy()


def _functionals(posterior: "Posterior", functionals: Mapping[str, Tensor], channel: int) -> dict[str, Any]:
    found = {}
    for name, values in functionals.items():
        after = values.dim() - posterior.z.dim() + 2  # frame, and perhaps one more
        dims = ("frame", LAST_DIMENSIONS.get(name, f"{name}_dim"))[:after]
        found[name] = ((*SAMPLE, *dims), _select(values, 2, after, channel))
    return found


def _sites(posterior: "Posterior", channel: int) -> dict[str, Any]:
    found = {
        name: ((*SAMPLE, *NOISE_DIMENSIONS[name]), _select(values, 2, len(NOISE_DIMENSIONS[name]), channel))
        for name, values in (posterior.noise_draws or {}).items()
    }
    return {**found, Z: ((*SAMPLE, "frame", "latent"), _select(posterior.z, 2, 2, channel))}


def _sample_stats(posterior: "Posterior", channel: int) -> dict[str, Any]:
    draws = (*SAMPLE, "frame")
    found: dict[str, Any] = {}
    if posterior.energy is not None:
        energy = _select(posterior.energy, 2, 1, channel)
        found |= {"energy": (SAMPLE, energy.sum(-1, dtype=np.float64)), "frame_energy": (draws, energy)}
    if posterior.diverged is not None:
        diverged = _select(posterior.diverged.bool(), 2, 1, channel)
        found |= {"diverging": (SAMPLE, diverged.any(-1)), "frame_diverging": (draws, diverged)}
    if posterior.step_size is not None:
        step = _select(posterior.step_size, 1, 1, channel)[:, None]
        found["step_size"] = (draws, np.repeat(step, posterior.z.shape[1], axis=1))
    return found


def _constants(posterior: "Posterior", channel: int) -> dict[str, Any]:
    """What has no draws: names -> dimensions and values."""
    bins = ("frame", "frequency")
    values: dict[str, tuple[tuple[str, ...], Tensor | None]] = {
        "wiener_gain": (bins, posterior.wiener_gain),
        "speech_std": (bins, posterior.variance.sqrt()),
        "noise_variance": (bins, posterior.noise.variance()),
        "responsibilities": ((COMPONENT, "frame"), posterior.responsibilities),
        "acceptance_rate": (("frame",), posterior.acceptance),
        "frame_gain": (("frame",), posterior.noise.frame_gain),
        "visual_weight": (("frame",), posterior.visual_weight),
    }
    found = {}
    for name, (dims, own) in values.items():
        if own is not None:
            before = int(dims[0] == COMPONENT)
            found[name] = (dims, _select(own, before, len(dims) - before, channel))
    return found


def _evaluated(
    posterior: "Posterior",
    speech: SpeechModel,
    power: Tensor,
    visual: Tensor | None,
    channel: int,
    pointwise: Pointwise,
    predictive_draws: int,
    seed: int,
) -> tuple[dict[str, NDArray[Any]], NDArray[Any], list[int]]:
    """Of one channel: what follows from every draw, (C, D, ..); replicates (C, D', N, F) of the D' listed."""
    chains, length = posterior.z.shape[:2]
    kept = np.linspace(0, length - 1, min(length, -(-predictive_draws // chains))).round().astype(int)
    with_replicate = torch.isin(torch.arange(chains * length) % length, torch.from_numpy(kept))
    generator = Generator(power.device).manual_seed(seed)
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in Draws._fields if name != "variance"}
    replicates = []
    with torch.no_grad(), cached_embeddings():
        for part in torch.arange(chains * length).split(max(1, BATCH_SIZE // power.numel())):
            model = NoisySpeech(speech, _noise(posterior, part))
            draws = _draws(model, posterior.z.flatten(0, 1)[part], power, visual, pointwise)
            found["log_joint"].append(_select(draws.log_joint, 1, 1, channel))
            found["log_likelihood"].append(
                _select(draws.log_likelihood, 1, 1 if pointwise == "frame" else 2, channel)
            )
            found[ALPHA].append(np.moveaxis(_select(draws.alpha, 2, 1, channel), 0, -1))
            found["speech_level"].append(_select(draws.speech_level, 1, 0, channel))
            found["mean_wiener_gain"].append(_select(draws.mean_wiener_gain, 1, 0, channel))
            chosen = with_replicate[part]
            alpha, variance = draws.alpha[:, chosen], draws.variance[:, chosen]
            if chosen.any():
                component = draw_component(alpha, generator)
                mean = torch.take_along_dim(variance, component[None, ..., None], 0)[0]
                unit = torch.empty_like(mean).exponential_(generator=generator)
                replicates.append(_select((mean * unit).to(power.dtype), 1, 2, channel))

    def by_chain(values: list[NDArray[Any]]) -> NDArray[Any]:
        joined = np.concatenate(values)
        return joined.reshape(chains, -1, *joined.shape[1:])

    return {name: by_chain(own) for name, own in found.items()}, by_chain(replicates), kept.tolist()


def _draws(
    model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None, pointwise: Pointwise
) -> Draws:
    """What follows from z (R, *, N, L); in float64, since differences between draws may be small."""
    check_alpha(model)
    log_prior, log_variance = model.speech.given(visual)(z)
    log_prior, noise_variance = log_prior.double(), model.noise.variance().double()
    speech_variance = model.noise.frame_gain.double().unsqueeze(-1) * log_variance.double().exp()
    variance = speech_variance + noise_variance
    log_density = PowerSpectrum(variance.log(), validate_args=False).log_prob(power.double())
    log_joint = log_prior + log_density.sum(-1)
    log_alpha = log_joint.log_softmax(0)
    alpha, gain = log_alpha.exp(), speech_variance / variance
    shares = alpha.unsqueeze(-1)
    expected = (shares * (gain.square() * power + gain * noise_variance)).sum(0)
    return Draws(
        log_joint=log_joint.logsumexp(0),
        log_likelihood=(
            log_joint.logsumexp(0) - log_prior.logsumexp(0)
            if pointwise == "frame"
            # p(x_f | x without f, z) = 1 / sum_a p(a | x, z) / p(x_f | z, a)
            else -(log_alpha.unsqueeze(-1) - log_density).logsumexp(0)
        ),
        alpha=alpha,
        speech_level=10 * expected.mean((-2, -1)).clamp_min(torch.finfo(expected.dtype).tiny).log10(),
        mean_wiener_gain=(shares * gain).sum(0).mean((-2, -1)),
        variance=variance,
    )


def _noise(posterior: "Posterior", index: Tensor) -> NoiseModel:
    """The noise of draws: the estimate, or theirs (R, *, ..) where the noise is sampled."""
    if posterior.noise_draws is None:
        return posterior.noise
    drawn = {name: values.flatten(0, 1)[index] for name, values in posterior.noise_draws.items()}
    noise = posterior.noise
    if not isinstance(noise, NMFNoise):
        raise InputError(
            f"draws of W and H belong to a noise model of class NMFNoise, not {type(noise).__name__}"
        )
    return replace(noise, W=drawn[W].mT, H=drawn[H], frame_gain=drawn.get(G, noise.frame_gain))
