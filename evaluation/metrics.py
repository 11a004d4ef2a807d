"""Metrics of an estimate of speech, given the clean speech.

| name | unit | range | measures |
|---|---|---|---|
| si_sdr | dB | ±100 | scale-invariant signal-to-distortion ratio |
| sdr | dB | ±100 | BSS-Eval signal-to-distortion ratio, invariant to a filter of 512 taps |
| pesq_wb | MOS-LQO | 1.04..4.64 | perceived quality, ITU-T P.862.2, wide band |
| pesq_nb | MOS-LQO | 1.02..4.55 | perceived quality, ITU-T P.862 with P.862.1 mapping, narrow band |
| stoi | 1 | 0..1 | short-time objective intelligibility |
| estoi | 1 | 0..1 | extended STOI, for modulated noise |

The package `speechmos` (extra `dnsmos`) brings a measure that needs no reference:

| dnsmos | MOS | 1..5 | overall quality as the network DNSMOS predicts it, ITU-T P.835 (Reddy et al., 2022) |

Every function takes reference (T,), estimate (T,) and the sample rate in Hz, and returns a float; higher is
better. All but dnsmos are invariant to the level of the estimate, up to rounding. Narrow-band and wide-band
PESQ differ by more than most methods do: state which is reported. (E)STOI of unrelated signals can be
slightly below 0.

An undefined metric (of a silent or non-finite signal, a short clip, or one without an utterance) is NaN, with
a `RuntimeWarning` that names the metric and the reason, so that one clip does not end a long evaluation.
Signals of unequal shapes raise `InputError`.
"""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import fast_bss_eval
import numpy as np
import numpy.typing as npt
import pesq
import pystoi

from avse.data.audio import Samples, checked_rate, resample
from avse.data.errors import InputError

LIMIT_DB = 100.0  # larger ratios measure rounding errors; an exact copy has this value
SDR_TAPS = 512  # as in BSS-Eval 3: 32 ms at 16 kHz
PESQ_RATE = 16000  # Hz
DNSMOS_RATE = 16000  # Hz
PESQ_LONGEST = 20 * PESQ_RATE  # samples
_NUMPY_STATE = threading.Lock()  # held while NumPy's global generator is seeded
STOI_SHORTEST = 0.4  # s; 30 frames of 256 samples, half overlapping, at 10 kHz


class _Undefined(Exception):
    """The metric is undefined for these signals; the message is the reason."""


def si_sdr(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate: int) -> float:
    """Scale-invariant SDR in dB, limited to ±100 dB (Le Roux et al., ICASSP 2019).

    With s the reference, e the estimate and a = <e, s> / <s, s>: 10 log10( |a s|^2 / |e - a s|^2 ). Means
    are not removed. The sample rate is not used.

    Raises:
        InputError: the signals do not have one shape (T,), or the rate is not positive.
    """
    return _score("si_sdr", _si_sdr, reference, estimate, sample_rate)


def sdr(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate: int) -> float:
    """BSS-Eval SDR in dB, limited to ±100 dB (Vincent et al., IEEE TASLP 2006).

    As `si_sdr` with a s replaced by h * s, the projection of e on the span of s delayed by 0..511 samples.
    The taps are samples at the given rate, as in mir_eval: compare values at one rate. NaN below 512 samples.

    Raises:
        InputError: the signals do not have one shape (T,), or the rate is not positive.
    """
    return _score("sdr", _sdr, reference, estimate, sample_rate)


def pesq_wb(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2), MOS-LQO; 4.64 for an exact copy.

    Computed at 16 kHz; other rates are resampled. A clip longer than 20 s is divided into equal parts of at
    most 20 s, and the defined scores are averaged: the reference implementation overruns its memory beyond
    50 utterances, and 20 s contain no more, since an utterance and a pause last at least 0.2 s each. NaN
    below 1/4 s.

    Raises:
        InputError: the signals do not have one shape (T,), or the rate is not positive.
    """
    return _score("pesq_wb", _pesq_wb, reference, estimate, sample_rate)


def pesq_nb(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate: int) -> float:
    """Narrow-band PESQ (ITU-T P.862, P.862.1), MOS-LQO; 4.55 for an exact copy. Otherwise as `pesq_wb`.

    Raises:
        InputError: the signals do not have one shape (T,), or the rate is not positive.
    """
    return _score("pesq_nb", _pesq_nb, reference, estimate, sample_rate)


def stoi(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate: int) -> float:
    """Short-time objective intelligibility on a 0..1 scale (Taal et al., IEEE TASLP 2011).

    Computed at 10 kHz; other rates are resampled by pystoi. NaN where less than 0.4 s of speech is left
    without the frames that are 40 dB below the loudest.

    Raises:
        InputError: the signals do not have one shape (T,), or the rate is not positive.
    """
    return _score("stoi", _stoi, reference, estimate, sample_rate)


def estoi(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate: int) -> float:
    """Extended STOI on a 0..1 scale (Jensen and Taal, IEEE TASLP 2016). Otherwise as `stoi`.

    Raises:
        InputError: the signals do not have one shape (T,), or the rate is not positive.
    """
    return _score("estoi", _estoi, reference, estimate, sample_rate)


def dnsmos(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate: int) -> float:
    """Overall quality of the estimate by DNSMOS P.835, MOS from 1 to 5; the reference is not used.

    Computed at 16 kHz; other rates are resampled. A clip shorter than 9 s is repeated. Where the peak exceeds
    full scale, the estimate is divided by it.

    Raises:
        InputError: the signals do not have one shape (T,), the rate is not positive, or the package
            `speechmos` is missing.
    """
    return _score("dnsmos", _dnsmos, reference, estimate, sample_rate)


METRICS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike, int], float]] = {
    "si_sdr": si_sdr,
    "sdr": sdr,
    "pesq_wb": pesq_wb,
    "pesq_nb": pesq_nb,
    "stoi": stoi,
    "estoi": estoi,
}

"""By name; those of every evaluation."""

OPTIONAL_METRICS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike, int], float]] = {"dnsmos": dnsmos}
"""By name; those whose packages are asked for by an extra of the same name."""


def check_metrics(names: Iterable[str]) -> None:
    """Check before a long evaluation that metrics are known and can be computed.

    Raises:
        InputError: an unknown name, or a package that is not installed.
    """
    names = list(names)
    if unknown := [name for name in names if name not in METRICS and name not in OPTIONAL_METRICS]:
        raise InputError(f"metric {', '.join(unknown)}: use {', '.join([*METRICS, *OPTIONAL_METRICS])}")
    if "dnsmos" in names:
        _dnsmos_model()


def all_metrics(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate: int) -> dict[str, float]:
    """Every metric by name: si_sdr and sdr in dB, pesq_wb and pesq_nb in MOS-LQO, stoi and estoi on 0..1.

    Raises:
        InputError: the signals do not have one shape (T,), or the rate is not positive.
    """
    return {name: metric(reference, estimate, sample_rate) for name, metric in METRICS.items()}


def improvements(
    reference: npt.ArrayLike, noisy: npt.ArrayLike, enhanced: npt.ArrayLike, sample_rate: int
) -> dict[str, float]:
    """Metric of the enhanced speech minus metric of the noisy speech, by name, in each metric's unit.

    Raises:
        InputError: the three signals do not have one shape (T,), or the rate is not positive.
    """
    before = all_metrics(reference, noisy, sample_rate)
    after = all_metrics(reference, enhanced, sample_rate)
    return {name: after[name] - before[name] for name in METRICS}


def _score(
    name: str,
    metric: Callable[[Samples, Samples, int], float],
    reference: npt.ArrayLike,
    estimate: npt.ArrayLike,
    sample_rate: int,
) -> float:
    """Check the signals and compute the metric; NaN and a warning where it is undefined."""
    ref = np.asarray(reference, np.float64)
    est = np.asarray(estimate, np.float64)
    if ref.ndim != 1 or ref.shape != est.shape:
        raise InputError(
            f"{name}: reference {ref.shape} and estimate {est.shape} must both have shape (T,); give one "
            "channel of each, of one length"
        )
    try:
        sample_rate = checked_rate(sample_rate)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    try:
        _check_sound(ref, "reference")
        _check_sound(est, "estimate")
        return metric(ref, est, sample_rate)
    except _Undefined as reason:
        warnings.warn(f"{name} is undefined, NaN is returned: {reason}", RuntimeWarning, stacklevel=3)
        return float("nan")


def _check_sound(signal: Samples, name: str) -> None:
    if not np.isfinite(signal).all():
        raise _Undefined(f"the {name} holds NaN or infinite samples")
    if not signal.any():
        raise _Undefined(f"the {name} is silent")


def _unit_peak(signal: Samples) -> Samples:
    return signal / np.abs(signal).max()


def _si_sdr(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    s, e = _unit_peak(reference), _unit_peak(estimate)
    target = (e @ s) / (s @ s) * s
    distortion = e - target
    signal, error = target @ target, distortion @ distortion
    floor = 10 ** (-LIMIT_DB / 10)
    return float(10 * np.log10(max(signal, floor * error) / max(error, floor * signal)))


def _sdr(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    if reference.size < SDR_TAPS:
        raise _Undefined(f"{reference.size} samples are fewer than the {SDR_TAPS} taps of its filter")
    # Diagonal loading of -120 dB makes the normal equations of band-limited speech solvable.
    loss = fast_bss_eval.sdr_loss(
        _unit_peak(estimate),
        _unit_peak(reference),
        filter_length=SDR_TAPS,
        clamp_db=LIMIT_DB,
        load_diag=1e-12,
    )
    return -float(loss)


def _pesq_wb(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    return _pesq(reference, estimate, sample_rate, "wb")


def _pesq_nb(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    return _pesq(reference, estimate, sample_rate, "nb")


def _pesq(reference: Samples, estimate: Samples, sample_rate: int, band: str) -> float:
    ref = resample(reference, sample_rate, PESQ_RATE)
    est = resample(estimate, sample_rate, PESQ_RATE)
    pieces = -(-ref.size // PESQ_LONGEST)
    scores, reasons = [], []
    for ref_piece, est_piece in zip(np.array_split(ref, pieces), np.array_split(est, pieces), strict=True):
        try:
            scores.append(float(pesq.pesq(PESQ_RATE, ref_piece, est_piece, band)))
        except pesq.NoUtterancesError:
            reasons.append("no utterance was found")
        except pesq.BufferTooShortError:
            reasons.append("the clip is shorter than 1/4 s")
        except (pesq.PesqError, ValueError) as error:  # ValueError: an estimate that is silent in float32
            reasons.append(str(error))
    if not scores:
        raise _Undefined(reasons[0])
    return float(np.mean(scores))


@contextmanager
def _numpy_state_kept() -> Iterator[None]:
    """Seed NumPy's global generator, from which ESTOI draws noise of 1e-16, and put its state back after."""
    with _NUMPY_STATE:
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _stoi(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    return _pystoi(reference, estimate, sample_rate, extended=False)


def _estoi(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    return _pystoi(reference, estimate, sample_rate, extended=True)


def _pystoi(reference: Samples, estimate: Samples, sample_rate: int, extended: bool) -> float:
    if reference.size < STOI_SHORTEST * sample_rate:
        raise _Undefined(f"the clip is shorter than {STOI_SHORTEST} s")
    try:
        with _numpy_state_kept(), warnings.catch_warnings():
            warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
            return float(pystoi.stoi(reference, estimate, sample_rate, extended=extended))
    except RuntimeWarning as warning:
        raise _Undefined(f"less than {STOI_SHORTEST} s of speech is left without silent frames") from warning


def _dnsmos(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    run = _dnsmos_model()
    at_rate = estimate if sample_rate == DNSMOS_RATE else resample(estimate, sample_rate, DNSMOS_RATE)
    scores = run(at_rate / max(1.0, float(np.abs(at_rate).max())), DNSMOS_RATE)
    return float(scores["ovrl_mos"])


def _dnsmos_model() -> Callable[[Samples, int], dict[str, float]]:
    try:
        from speechmos import dnsmos as model
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install 'avse[dnsmos]'") from error
    return model.run
