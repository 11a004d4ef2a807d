"""Drawing of posteriors on matplotlib axes; what concerns chains is drawn by ArviZ.

ArviZ 0.x draws on axes that it is given; ArviZ 1.x makes its own.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avse.data.drawing import SERIES, SPEECH, level_db
from avse.data.errors import InputError
from avse.inference.inference_data import SAMPLE, Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PREDICTIVE_GROUPS = ("posterior_predictive", "observed_data")


def draw_costs(axes: "Axes", costs: Sequence[float]) -> None:
    """The cost of the noise model before every iteration, nats per frame and bin."""
    from matplotlib.ticker import MaxNLocator

    axes.plot(np.arange(1, len(costs) + 1), costs, color=SPEECH)
    axes.set(
        title="fit of the noise model",
        xlabel="iteration",
        ylabel="cost per bin (nats)",
        xlim=(1, max(2, len(costs))),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def draw_responsibilities(
    axes: "Axes", responsibilities: NDArray[np.floating], times: NDArray[np.floating], xlabel: str
) -> None:
    """p(alpha = a | x), (A, N), one curve for each a over times (N,)."""
    for alpha, values in enumerate(responsibilities):
        axes.plot(times, values, color=SERIES[alpha % len(SERIES)], label=f"alpha = {alpha}")
    axes.set(xlabel=xlabel, ylabel="p(alpha | x)", ylim=(-0.02, 1.02))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(responsibilities), frameon=False)


def scalar_at(tree: Tree, name: str, at: Mapping[str, Any] | None) -> dict[str, Any]:
    """Coordinates that select one number a draw: those nearest to the given ones, else in the middle.

    Args:
        tree: with the group posterior.
        name: of a variable in it.
        at: value of a coordinate, by the name of its dimension, such as {"frame": 0.5}.

    Raises:
        InputError: no such variable or dimension.
    """
    posterior = tree["posterior"]
    if name not in posterior.data_vars:
        raise InputError(f"no variable {name!r}: there are {', '.join(map(str, posterior.data_vars))}")
    axes = posterior[name].drop_vars(SAMPLE, errors="ignore").isel(chain=0, draw=0)
    unknown = set(at or {}) - set(axes.dims)
    if unknown:
        raise InputError(
            f"{name} has no dimension {', '.join(sorted(unknown))}: it has {', '.join(axes.dims)}"
        )
    found = {}
    for dim in axes.dims:
        values = axes[dim].values
        wanted = (at or {}).get(dim)
        if wanted is None:
            found[dim] = values[len(values) // 2]
        elif np.issubdtype(values.dtype, np.number):
            found[dim] = values[np.abs(values - wanted).argmin()]
        else:
            found[dim] = wanted
    return found


def plot_trace(tree: Tree, name: str, at: Mapping[str, Any] | None = None, axes: Any = None) -> Any:
    """`az.plot_trace` of a variable of the posterior, at coordinates such as {"frame": 0.5}.

    Args:
        tree: ArviZ's view of a posterior.
        name: of the variable.
        at: coordinates; all where there are none.
        axes: two in a row, (1, 2), of which one gets the density and one the trace; by default new ones.
    """
    import arviz as az

    selection = {"var_names": [name], "coords": _listed(at)}
    if hasattr(az, "plot_trace_dist"):  # ArviZ 1.x
        return _plotted(az.plot_trace_dist, tree, "", axes, selection)
    return _plotted(az.plot_trace, tree, "axes", axes, {**selection, "compact": False})


def plot_rank(tree: Tree, name: str, at: Mapping[str, Any] | None = None, axes: Any = None) -> Any:
    """`az.plot_rank` of a variable of the posterior at coordinates: flat if the chains agree."""
    import arviz as az

    return _plotted(az.plot_rank, tree, "ax", axes, {"var_names": [name], "coords": _listed(at)})


def plot_autocorrelation(tree: Tree, name: str, at: Mapping[str, Any] | None = None, axes: Any = None) -> Any:
    """`az.plot_autocorr` of a variable of the posterior at coordinates, on an axes for each chain."""
    import arviz as az

    return _plotted(az.plot_autocorr, tree, "ax", axes, {"var_names": [name], "coords": _listed(at)})


def plot_energy(tree: Tree, axes: Any = None) -> Any:
    """`az.plot_energy`: the energy and its changes between draws."""
    import arviz as az

    return _plotted(az.plot_energy, tree, "ax", axes, {})


def plot_predictive(tree: Tree, axes: Any = None) -> Any:
    """`az.plot_ppc` (`az.plot_ppc_dist` of ArviZ 1.x) of observed and replicated |x|^2, in dB."""
    import arviz as az

    levels = {group: {"level (dB)": level_db(tree[group]["x"].values)} for group in PREDICTIVE_GROUPS}
    if hasattr(az, "plot_ppc"):
        return _plotted(az.plot_ppc, az.from_dict(**levels), "ax", axes, {})
    return _plotted(az.plot_ppc_dist, az.from_dict(levels), "", axes, {})


def figure_of(drawn: Any) -> "Figure":
    """The figure of what a plot of ArviZ returns: axes of ArviZ 0.x, a PlotCollection of ArviZ 1.x."""
    viz = getattr(drawn, "viz", None)
    figure: Figure = np.ravel(drawn)[0].figure if viz is None else viz["figure"].item()
    return figure


def _plotted(plot: Any, tree: Tree, argument: str, axes: Any, options: Mapping[str, Any]) -> Any:
    """What a plot of ArviZ returns; `argument` is the name of its argument for axes.

    Raises:
        InputError: axes are given, and this version of ArviZ takes none.
    """
    import arviz as az

    if axes is None:
        return plot(tree, **options)
    if int(az.__version__.partition(".")[0]) >= 1 or not argument:
        raise InputError(f"ArviZ {az.__version__} draws on axes of its own: leave axes out")
    return plot(tree, **options, **{argument: np.asarray(axes) if argument == "axes" else axes})


def _listed(at: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    """Coordinates in lists, as every version of ArviZ takes them."""
    return {dim: [value] for dim, value in (at or {}).items()}


@contextmanager
def without_warnings_of_arviz() -> Iterator[None]:
    """ArviZ warns where all draws are equal, which the verdict of the page says in words."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="arviz")
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="arviz")
        yield
