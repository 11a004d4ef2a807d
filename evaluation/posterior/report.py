"""Report of a posterior analysis: one HTML page without scripts, other files or network access.

Sounds (WAV) and figures (SVG) are embedded. The layout fits desktops and phones, light and dark colour
schemes. The verdict on convergence comes first.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape

import arviz as az
import numpy as np
import soundfile as sf
from torch import Tensor

from avse.data.audio import Samples
from avse.data.drawing import level_db
from avse.data.stft import STFT
from avse.evaluation.posterior import figures
from avse.evaluation.posterior.credible import SpeechMoments
from avse.evaluation.posterior.diagnosis import (
    MIN_BFMI,
    RHAT_THRESHOLD,
    RHAT_THRESHOLD_MEANS,
    Diagnosis,
    verdict,
)
from avse.evaluation.posterior.predictive import PredictiveCheck
from avse.inference.drawing import without_warnings_of_arviz
from avse.inference.inference_data import Tree
from avse.models.sites import ALPHA

PEAK = 0.9
"""Peak amplitude of the loudest sound; all sounds are scaled by the same factor."""
QUANTITY_NAMES = {
    "log_joint": "log joint",
    "mean_gain": "mean gain",
    "level": "speech level",
    ALPHA: "alpha",
    "z": "latents z",
}


@dataclass(frozen=True)
class PosteriorSummary:
    """Results of the posterior analysis of one channel: N frames, F bins.

    Attributes:
        title: name of the recording.
        facts: settings and versions of the run, by name.
        notes: remarks shown with the verdict.
        sounds: waveforms (T,) at the rate of the STFT, by name.
        spectrum: STFT of the noisy recording, complex (N, F).
        speech: posterior mean and standard deviation of the speech STFT, (N, F).
        stft: the transform of both.
        diagnosis: convergence of the chains, with the functionals of `default_functionals`, (C, D, N, ...).
        check: posterior predictive check.
        inference_data: the posterior as `Posterior.to_inference_data` gives it, with the functionals of the
            diagnosis, the names of `bands` as coordinate "band", and the transform; ArviZ draws from it.
    """

    title: str
    facts: Mapping[str, str]
    notes: Iterable[str]
    sounds: Mapping[str, Samples]
    spectrum: Tensor
    speech: SpeechMoments
    stft: STFT
    diagnosis: Diagnosis
    check: PredictiveCheck
    inference_data: Tree


@dataclass(frozen=True)
class Panel:
    """A figure (a data URI) with its caption and its text alternative."""

    address: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Table:
    """Rows of text with column headers; the first cell of a row is its header."""

    caption: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)


def posterior_report(summary: PosteriorSummary) -> str:
    """The report as the text of an HTML page."""
    body = "\n".join(
        [
            f"<header><h1>Posterior of <span class=name>{escape(summary.title)}</span></h1>",
            _verdict(summary),
            "</header><main>",
            _section("listen", "Listen", _LISTEN, _players(summary)),
            _section("where", "Uncertainty of the speech", _UNCERTAINTY, _panels(_maps(summary))),
            _section("chains", "Chains", _CHAINS, "".join(_chains(summary))),
            _section("numbers", "Numbers", _NUMBERS, "".join(map(_table, _tables(summary)))),
            _section("predictive", "Posterior predictive check", _PREDICTIVE, _predictive(summary)),
            _section("run", "Settings", "", _facts(summary.facts)),
            "</main>",
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>Posterior of {escape(summary.title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def _section(name: str, title: str, lead: str, content: str) -> str:
    introduction = f"<p>{lead}</p>" if lead else ""
    return f'<section id="{name}"><h2>{title}</h2>{introduction}{content}</section>'


def _verdict(summary: PosteriorSummary) -> str:
    first, *rest = verdict(summary.diagnosis).splitlines()
    fits = summary.check.fits()
    rest.append(
        "The predicted powers agree with the recording (posterior predictive check)."
        if fits
        else "The predicted powers do not agree with the recording (posterior predictive check): credible "
        "intervals may be too narrow even if the chains have mixed."
    )
    kind = "good" if summary.diagnosis.mixed else "fair" if summary.diagnosis.usable else "bad"
    items = "".join(f"<li>{escape(line)}</li>" for line in [*rest, *summary.notes])
    return f'<div class="verdict {kind}" role="status"><p>{escape(first)}</p><ul>{items}</ul></div>'


def _players(summary: PosteriorSummary) -> str:
    gain = PEAK / max(1e-9, *(float(np.abs(samples).max()) for samples in summary.sounds.values()))
    players = [
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f'<audio controls preload="metadata" aria-label="{escape(name)}" '
        f'src="{_wav(gain * samples, summary.stft.sample_rate)}"></audio></figure>'
        for name, samples in summary.sounds.items()
    ]
    return f'<div class="sounds">{"".join(players)}</div>'


def _wav(samples: Samples, rate: int) -> str:
    written = io.BytesIO()
    sf.write(written, samples, rate, format="WAV", subtype="PCM_16")
    return "data:audio/wav;base64," + base64.b64encode(written.getvalue()).decode()


def _panels(panels: Iterable[Panel]) -> str:
    shown = [
        f'<figure><figcaption>{escape(panel.caption)}</figcaption><img alt="{escape(panel.alt)}" '
        f'width="520" height="310" src="{panel.address}"></figure>'
        for panel in panels
    ]
    return f'<div class="panels">{"".join(shown)}</div>'


def _maps(summary: PosteriorSummary) -> list[Panel]:
    stft, spectrum = summary.stft, summary.spectrum
    mean, std = summary.speech.mean.abs().cpu().numpy(), summary.speech.std.cpu().numpy()
    powers = {
        "noisy": spectrum.abs().square().cpu().numpy(),
        "speech, posterior mean": mean**2,
        "noise, posterior mean": (spectrum - summary.speech.mean).abs().square().cpu().numpy(),
    }
    top = max(float(level_db(power).max()) for power in powers.values())
    panels = [
        Panel(
            figures.svg_uri(figures.spectrogram(power, top, stft)),
            f"{name[0].upper()}{name[1:]}",
            f"Spectrogram of the {name}: level in dB relative to the loudest bin, over time and frequency.",
        )
        for name, power in powers.items()
    ]
    share = float((std < mean).mean())
    panels.append(
        Panel(
            figures.svg_uri(figures.uncertainty_map(mean, std, stft)),
            "Uncertainty of the speech",
            "Posterior standard deviation over posterior mean of the speech, in dB, over time and "
            "frequency; it "
            f"is below 0 dB in {share:.0%} of the bins.",
        )
    )
    times = stft.frame_times(len(spectrum)).numpy()
    draws = _draws(summary.diagnosis, "mean_gain")
    panels.append(
        Panel(
            figures.svg_uri(figures.plot_over_time(draws[..., None], times, "mean gain")),
            "Mean Wiener gain",
            f"Wiener gain, averaged over bins, with its 90 % interval; its mean is {draws.mean():.2f}.",
        )
    )
    if ALPHA in summary.diagnosis.functionals:
        shares = _draws(summary.diagnosis, ALPHA)
        names = [f"alpha = {k}" for k in range(shares.shape[-1])]
        average = ", ".join(f"{value:.2f}" for value in shares.mean((0, 1, 2)))
        panels.append(
            Panel(
                figures.svg_uri(figures.plot_over_time(shares, times, "probability", names)),
                "Mixture component: alpha",
                f"Posterior probability of each value of alpha over time; the means are {average}.",
            )
        )
    return panels


def _chains(summary: PosteriorSummary) -> list[str]:
    diagnosis, times = summary.diagnosis, summary.stft.frame_times(len(summary.spectrum)).numpy()
    frames = ("log_joint", "mean_gain")
    rhats = {name: diagnosis.convergence[name].rhat.cpu().numpy() for name in frames}
    rhat_panel = Panel(
        figures.svg_uri(
            figures.plot_rhat_over_time(
                {QUANTITY_NAMES[name]: own for name, own in rhats.items()},
                times,
                (RHAT_THRESHOLD, RHAT_THRESHOLD_MEANS),
            )
        ),
        "R-hat over time",
        f"R-hat of every frame, with thresholds at {RHAT_THRESHOLD} and {RHAT_THRESHOLD_MEANS}. "
        f"{diagnosis.failing_shares('log_joint')[f'rhat>{RHAT_THRESHOLD}']:.0%} of the frames exceed "
        f"{RHAT_THRESHOLD} or have no R-hat.",
    )
    tree, level = summary.inference_data, _draws(diagnosis, "level")
    order = np.argsort(np.where(np.isfinite(rhats["log_joint"]), rhats["log_joint"], np.inf))
    loud, band = (int(index) for index in np.unravel_index(level.mean((0, 1)).argmax(), level.shape[2:]))
    middle, worst = int(order[len(order) // 2]), int(order[-1])
    posterior = tree["posterior"]
    frame, bands = posterior["frame"].values, posterior["band"].values
    joint, levels = diagnosis.convergence["log_joint"].rhat, diagnosis.convergence["level"].rhat
    chosen = {
        f"Log joint (nats) of the frame with the median R-hat, at {times[middle]:.2f} s": (
            ("log_joint", {"frame": frame[middle]}),
            joint[middle],
        ),
        f"Log joint (nats) of the frame with the largest R-hat, at {times[worst]:.2f} s": (
            ("log_joint", {"frame": frame[worst]}),
            joint[worst],
        ),
        f"Speech level (dB) from {bands[band]} at {times[loud]:.2f} s, the loudest": (
            ("level", {"frame": frame[loud], "band": bands[band]}),
            levels[loud, band],
        ),
    }
    chains = f"{diagnosis.chains} chains of {diagnosis.draws} draws"
    whole = [
        Panel(
            figures.svg_uri(figures.trace_plot(tree, name)),
            caption,
            f"{caption}: density and trace of {chains}.",
        )
        for name, caption in (
            ("speech_level", "Speech level of the recording (dB): a trend indicates too short a warmup"),
            ("mean_wiener_gain", "Mean Wiener gain of the recording"),
        )
    ]
    if "energy" in tree["sample_stats"]:
        whole.append(
            Panel(
                figures.svg_uri(figures.energy_plot(tree)),
                "Energy of all frames",
                f"Energy of {chains} and its changes between draws; they should be about as wide.",
            )
        )
    shown = [_panels([rhat_panel, *whole])]
    for title, ((name, at), rhat) in chosen.items():
        own = escape(f"{title}: R-hat {_number(float(rhat), 3)}")
        panels = [
            Panel(figures.svg_uri(plot(tree, name, at)), caption, f"{title}: {alt} of {chains}.")
            for plot, caption, alt in (
                (figures.trace_plot, "Density and trace", "densities and traces"),
                (figures.rank_plot, "Ranks, flat if the chains agree", "ranks among all draws"),
                (figures.autocorrelation_plot, "Autocorrelation", "autocorrelations"),
            )
        ]
        shown.append(f"<h3>{own}</h3>{_panels(panels)}")
    return shown


def _edges(band: slice) -> tuple[int, int]:
    return band.start, band.stop - 1


def _draws(diagnosis: Diagnosis, name: str) -> figures.Array:
    return diagnosis.functionals[name].double().cpu().numpy()


def _tables(summary: PosteriorSummary) -> list[Table]:
    diagnosis = summary.diagnosis
    quality = Table(
        "Convergence: quantiles over frames, and shares of values that fail a threshold",
        [
            *(
                "quantity",
                "R-hat 50\u00a0%",
                "R-hat 95\u00a0%",
                f"R-hat >\u00a0{RHAT_THRESHOLD}",
                f"R-hat >\u00a0{RHAT_THRESHOLD_MEANS}",
            ),
            *(
                "bulk ESS 5\u00a0%",
                "bulk ESS 50\u00a0%",
                "tail ESS 5\u00a0%",
                "tail ESS 50\u00a0%",
                "ESS < 100 per chain",
            ),
            *("MCSE 50\u00a0%", "MCSE 95\u00a0%"),
        ],
    )
    for name in diagnosis.convergence:
        quantiles, failing = diagnosis.quantiles(name), list(diagnosis.failing_shares(name).values())
        quality.rows.append(
            [
                QUANTITY_NAMES.get(name, name),
                *(_number(value, 3) for value in quantiles["rhat"][1:]),
                *(f"{share:.1%}" for share in failing[:2]),
                *(_number(value, 0) for value in (*quantiles["ess_bulk"][:2], *quantiles["ess_tail"][:2])),
                f"{failing[2]:.1%}",
                *(f"{value:.2g}" if math.isfinite(value) else "–" for value in quantiles["mcse"][1:]),
            ]
        )
    sampler = Table("Sampler", ["quantity", "5 %", "50 %", "95 %", "remark"])
    for name, values, note in (
        ("acceptance", diagnosis.acceptance, "including warmup"),
        ("step size", diagnosis.step_size, "in units of z"),
        ("energy (BFMI)", diagnosis.bfmi, _below(diagnosis.bfmi)),
    ):
        if values is not None:
            levels = values.new_tensor([0.05, 0.5, 0.95])
            quantile_values = values.flatten().nanquantile(levels).tolist()
            sampler.rows.append([name, *(_number(value, 3) for value in quantile_values), note])
    events = Table("Failures", ["event", "value"])
    if diagnosis.diverged is not None:
        events.rows.append(["divergent transitions", f"{_share(diagnosis.diverged):.2%}"])
    events.rows.append(["frames in which a chain never moved", f"{_share(diagnosis.stuck):.1%}"])
    events.rows.append(
        [
            "drift of the log joint between halves of the chains",
            f"{_number(diagnosis.drift.nats, 2)} nats per frame "
            f"({_number(diagnosis.drift.score, 1)} standard errors)",
        ]
    )
    return [quality, _recording_table(summary), sampler, events]


def _recording_table(summary: PosteriorSummary) -> Table:
    """`az.summary` of the scalars of the recording."""
    with without_warnings_of_arviz():
        numbers = az.summary(summary.inference_data, var_names=["speech_level", "mean_wiener_gain"])
    names = {"speech_level": "speech level (dB)", "mean_wiener_gain": "mean Wiener gain"}
    rows = [
        [names[str(name)], *map(str, values)]
        for name, values in zip(numbers.index, numbers.values, strict=True)
    ]
    return Table("The whole recording, by ArviZ", ["quantity", *map(str, numbers.columns)], rows)


def _below(bfmi: Tensor | None) -> str:
    return "" if bfmi is None else f"{_share(bfmi < MIN_BFMI):.0%} of the frames below {MIN_BFMI}"


def _share(values: Tensor) -> float:
    return float(values.double().mean())


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _predictive(summary: PosteriorSummary) -> str:
    check = summary.check
    spacing = summary.stft.sample_rate / summary.stft.window_length
    rows = []
    for b, band in enumerate(check.bands):
        low, high = (spacing * edge for edge in _edges(band))
        rows.append(
            [
                f"{low:.0f} to {high:.0f} Hz",
                f"{float(check.excess[b]):+.2f} dB",
                f"{float(check.band_distance[b]):.3f} (p = {float(check.band_p_value[b]):.2g})",
                f"{float(check.bin_distance[b]):.3f} (p = {float(check.bin_p_value[b]):.2g})",
                f"{float((check.p_values[..., b] < 0.05).double().mean()):.1%}",
            ]
        )
    head = [
        "band",
        "observed / predicted",
        "KS distance of bands",
        "KS distance of bins",
        "frames with p < 5 %",
    ]
    result = "agree" if check.fits() else "do not agree"
    overlaid = Panel(
        figures.svg_uri(figures.predictive_plot(summary.inference_data)),
        "Distribution of the powers",
        f"Densities of the observed powers and of replicates of them, in dB; they {result}.",
    )
    return _panels([overlaid]) + _table(Table(f"Observed and predicted powers {result}", head, rows))


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = []
    for first, *rest in table.rows:
        cells = "".join(
            f'<td data-label="{escape(name)}">{escape(cell)}</td>'
            for name, cell in zip(table.head[1:], rest, strict=True)
        )
        rows.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return (
        f"<table><caption>{escape(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    items = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f"<dl>{''.join(items)}</dl>"


_LISTEN = (
    "All sounds are scaled by the same factor. The enhanced speech is the posterior mean; each sample is a "
    "draw from the posterior of the speech. The speech is uncertain where the samples differ."
)
_UNCERTAINTY = (
    "The uncertainty map shows the posterior standard deviation of every bin over its mean: the speech is "
    "well determined in bright bins and uncertain in dark ones. Shaded intervals contain 90 % of the draws."
)
_CHAINS = (
    "Several chains sample the latent variables z of every frame, given the fitted noise. Chains that have "
    "mixed have overlapping traces, flat ranks and decaying autocorrelations. Each colour is a chain. The "
    "plots are those of ArviZ."
)
_NUMBERS = (
    f"R-hat compares the variance between chains with that within chains: below {RHAT_THRESHOLD} the chains "
    f"have converged, up to {RHAT_THRESHOLD_MEANS} means can be used. ESS is the effective sample size; "
    "MCSE is the Monte Carlo standard error of a mean (in nats, dB, or units of the quantity)."
)
_PREDICTIVE = (
    "Observed powers against those that the models of speech and noise predict. Converged chains sample "
    "the posterior of the model, but the model may be wrong. Neighbouring bins of an STFT are correlated, "
    "which the model ignores; the check uses bins and frames that are far enough apart."
)
_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--paper:#fff;--card:#f6f8fa;--line:#d1d9e0;
--good:#1a7f37;--fair:#9a6700;--bad:#cf222e}
@media(prefers-color-scheme:dark){:root{--ink:#dfe3e8;--soft:#9aa4af;--paper:#0f1318;--card:#181d24;--line:#313a45;
--good:#3fb950;--fair:#d29922;--bad:#f85149}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
header,main{max-width:76rem;margin:0 auto;padding:0 1rem}
h1{font-size:1.6rem;line-height:1.25;margin:1.5rem 0 1rem}
h2{font-size:1.25rem;margin:2.5rem 0 .25rem;padding-top:1rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.5rem 0 .5rem}
h1,h3,dd,li,th,td,figcaption{overflow-wrap:anywhere}
section>p{color:var(--soft);max-width:46rem;margin:.25rem 0 1rem}
.verdict{border-left:.4rem solid var(--soft);background:var(--card);border-radius:.4rem;padding:.8rem 1rem}
.verdict p{font-size:1.15rem;font-weight:600;margin:0}
.verdict ul{margin:.5rem 0 0;padding-left:1.2rem}
.verdict.good{border-color:var(--good)}.verdict.fair{border-color:var(--fair)}.verdict.bad{border-color:var(--bad)}
.good p{color:var(--good)}.fair p{color:var(--fair)}.bad p{color:var(--bad)}
.sounds,.panels{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr))}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.6rem}
figcaption{font-weight:600;font-size:.9rem;margin-bottom:.4rem}
audio{width:100%;display:block}
img{width:100%;height:auto;display:block}
table{width:100%;border-collapse:collapse;font-size:.85rem;margin:1.25rem 0;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;font-size:.95rem;padding-bottom:.4rem}
th,td{padding:.35rem .5rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:bottom}
th:first-child{text-align:left}tbody th{white-space:nowrap}
thead th{color:var(--soft);font-weight:500}
dl{display:grid;gap:.6rem 1.5rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,16rem),1fr))}
dt{color:var(--soft);font-size:.85rem}dd{margin:0}
main{padding-bottom:3rem}
@media(max-width:60rem){
thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
table,caption,tbody,tr{display:block}
tr{border:1px solid var(--line);border-radius:.4rem;background:var(--card);padding:.5rem .7rem;margin:.6rem 0}
tbody th,td{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.1rem 0;text-align:right}
tbody th{font-size:.95rem;white-space:normal}
td::before{content:attr(data-label);color:var(--soft);text-align:left}}
"""
