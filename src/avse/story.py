"""The generative story of a model: its sample sites in order with their shapes, and its plate diagram.

    avse.show("a-vae")                    # a pair of the zoo: clean speech, noisy speech, guide
    avse.show(my_pair_or_model)           # a `SpeechPair`, an `avse.Pair`, a `SpeechModel`, a `NoisySpeech`
    avse.show(pyro_function, data)        # any Pyro program, with its arguments

The program is run and its trace is read; nothing of the process is changed. Without data of one's own the
program is given `FRAMES` frames, whose values no shape depends on.

Letters: A values of alpha, C channels, F frequency bins, K noise components, L latent dimensions, N frames,
R recordings, D numbers that a model is given of the lips in a frame.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import TrackProvenance, get_model_relations
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from torch import Generator, Tensor, nn

from avse.data.errors import InputError
from avse.data.notebook import picture_of_svg, table
from avse.guides.programs import speech_guide
from avse.models.base import TRACE_LOCK, SpeechModel
from avse.models.coupling import Coupling, coupling_of
from avse.models.nmf import QuantileInit
from avse.models.noisy import NoisySpeech, sample_noisy
from avse.models.parameters import local_parameters
from avse.models.sites import ALPHA, CHANNELS, RECORDINGS, G, H, S, W, X, Z
from avse.models.sites import FRAMES as FRAMES_PLATE
from avse.plates import MODULE_SEPARATOR, dot_source, draw_diagram, svg, write_diagram
from avse.recording import pair_named
from avse.zoo.pair import SpeechPair

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES = 20
"""N of the data that a model is shown with, where none is given."""
MAX_ROWS = 60
"""Sites that a table lists; of longer programs the first and the last."""
LIPS = "v"
"""Name of the lips in a story."""
MODEL_INPUTS = {LIPS: "visual"}
"""What a model is given and does not sample: name in its story -> name of the argument."""
GUIDE_INPUTS = {LIPS: "visual", S: "power"}
"""The same of a guide, which reads the speech."""
LETTERS = {
    ALPHA: ("N",),
    Z: ("N", "L"),
    S: ("N", "F"),
    X: ("N", "F"),
    W: ("K", "F"),
    H: ("K", "N"),
    G: ("N",),
    LIPS: ("N", "D"),
}
"""Letters of the last dimensions of the sites that this package names."""
LEADING = ("C", "R")
"""Letters of the dimensions left of those, the last one first."""
PLATE_LETTERS = {FRAMES_PLATE: "N", CHANNELS: "C", RECORDINGS: "R"}
MEANINGS = {
    "A": "values of alpha",
    "C": "channels",
    "D": "numbers of the lips",
    "F": "frequency bins",
    "K": "noise components",
    "L": "latent dimensions",
    "N": "frames",
    "R": "recordings",
}
HEADINGS = ("site", "distribution", "given", "plates", "batch", "event", "role")
Program = Callable[..., Any]
"""A Pyro function or module."""


@dataclass(frozen=True)
class Site:
    """A statement of a Pyro program, as it is in the trace.

    Attributes:
        name: of the site.
        distribution: its name, without `Independent` and the like; "Deterministic" and "Unit" as in Pyro (the
            latter a factor); the constraint of a parameter.
        given: the sites that its distribution directly depends on.
        plates: names and sizes, outermost first.
        batch_shape: of the distribution; of a parameter ().
        event_shape: of the distribution; of a parameter its shape.
        role: "latent", "observed", "deterministic", "factor", "parameter", "enumerated" for a discrete site
            that inference sums over, or "input" for what the program is given and does not sample: the lips
            of a model; the speech, too, of a guide.
        values: A, the number of values of an enumerated site; else None.
    """

    name: str
    distribution: str
    given: tuple[str, ...]
    plates: tuple[tuple[str, int], ...]
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    role: str
    values: int | None = None


@dataclass(frozen=True, repr=False)
class Story:
    """A Pyro program as a list of its sites, and as a diagram.

    Attributes:
        title: what the program is.
        sites: in the order of the program; the parameters of a module count as one, of its name.
        relations: of the sites, by `pyro.infer.inspect.get_model_relations`.
        letters: letter of a size -> the size.
    """

    title: str
    sites: tuple[Site, ...]
    relations: Mapping[str, Any]
    letters: Mapping[str, int]

    def __repr__(self) -> str:
        """The table as text."""
        rows = [HEADINGS, *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        lines = [
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join(
            [self.title, *(f"  {line}".rstrip() for line in lines), f"  {self.legend()}".rstrip()]
        )

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table under `HEADINGS`; a program of many sites is shortened in its middle."""
        rows = [self._row(site) for site in self.sites]
        if len(rows) <= MAX_ROWS:
            return rows
        head, tail = MAX_ROWS - 10, 9
        left = f"{len(rows) - head - tail} more sites"
        return [*rows[:head], ("...", left, *[""] * (len(HEADINGS) - 2)), *rows[-tail:]]

    def _row(self, site: Site) -> tuple[str, ...]:
        sizes = (*site.batch_shape, *site.event_shape)
        letters = self._lettered(site.name, sizes)
        at = len(site.batch_shape)
        role = site.role if site.values is None else f"{site.role}, {site.values} values"
        return (
            site.name,
            site.distribution,
            ", ".join(site.given),
            ", ".join(name for name, _ in site.plates),
            _shape(letters[:at]) if site.role != "parameter" else "",
            _shape(letters[at:]),
            role,
        )

    def _lettered(self, name: str, sizes: Sequence[int]) -> list[str]:
        """A letter for every dimension that has one, else its size."""
        known = [letter for letter, _ in zip(_letters_of(name, len(sizes)), sizes, strict=True)]
        return [
            letter if letter and self.letters.get(letter) == size else str(size)
            for letter, size in zip(known, sizes, strict=True)
        ]

    def legend(self) -> str:
        """The letters: "N = 20 frames, F = 513 frequency bins"."""
        return ", ".join(f"{letter} = {size} {MEANINGS[letter]}" for letter, size in self.letters.items())

    @property
    def dot(self) -> str:
        """The DOT source of the plate diagram, with the sizes of the plates.

        Raises:
            InputError: plates that overlap and are not nested.
        """
        sizes = dict(plate for site in self.sites for plate in site.plates)
        labels = {
            name: f"{name}, {PLATE_LETTERS[name]} = {size}" if name in PLATE_LETTERS else f"{name}, {size}"
            for name, size in sizes.items()
        }
        return dot_source(self.relations, self.title, labels)

    def sentence(self) -> str:
        """The diagram in words, for those who do not see it."""
        arrows = [f"{', '.join(site.given)} to {site.name}" for site in self.sites if site.given]
        return f"Plate diagram of {self.title}: arrows from {'; from '.join(arrows) or 'no site'}."

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the plate diagram on matplotlib axes, by default new ones; returns the axes.

        Raises:
            InputError: there is no Graphviz (extra `show`).
        """
        return draw_diagram(axes, self.dot)

    def _repr_html_(self) -> str:
        rows = table(HEADINGS, self.rows(), caption=self.title)
        try:
            drawn = picture_of_svg(svg(self.dot), self.sentence())
        except InputError as error:
            drawn = f"<p>{escape(str(error))}</p>"
        return f"{rows}<p>{escape(self.legend())}</p>{drawn}"


@dataclass(frozen=True, repr=False)
class Shown:
    """What `avse.show` returns: it prints the stories, and displays itself in a notebook.

    Attributes:
        stories: "speech", "noisy" and "guide" of a pair, the first two of a speech model, "model" of any
            other program.
        notes: what is left out, and why.
    """

    stories: Mapping[str, Story]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The stories as text."""
        return "\n\n".join([*map(repr, self.stories.values()), *self.notes])

    def story(self, part: str | None = None) -> Story:
        """One of the stories, by default that of the noisy speech where there is one.

        Raises:
            InputError: there is none of that name.
        """
        if part is None:
            part = "noisy" if "noisy" in self.stories else next(iter(self.stories))
        if part not in self.stories:
            raise InputError(f"no story {part!r}: there are {', '.join(self.stories)}")
        return self.stories[part]

    def save(self, path: str | Path, part: str | None = None) -> None:
        """Write the plate diagram of a story as .dot, .svg, .png or .pdf.

        Raises:
            InputError: no such story, another suffix, or no Graphviz for other than DOT source.
        """
        write_diagram(Path(path), self.story(part).dot)

    def plot(self, axes: "Axes | None" = None, part: str | None = None) -> "Axes":
        """Draw the plate diagram of a story on matplotlib axes, by default new ones; returns the axes.

        Raises:
            InputError: no such story, or no Graphviz (extra `show`).
        """
        return self.story(part).plot(axes)

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        stories = "".join(story._repr_html_() for story in self.stories.values())
        return f'<section aria-label="Generative story">{stories}{notes}</section>'


def show(
    model: str | Path | SpeechPair | Program,
    *args: Any,
    power: Any = None,
    visual: Any = None,
    **kwargs: Any,
) -> Shown:
    """The generative story of a model with shapes, and its plate diagram.

        print(avse.show("vae-mm"))
        avse.show(pair).save("model.svg")
        avse.show(pyro_function, data).story().sites

    Args:
        model: name in the zoo, folder of a saved pair, a loaded pair, a speech model (alone or in
            `NoisySpeech`), or any Pyro function or module.
        args: of a Pyro function or module.
        power: observed |s|^2 or |x|^2, (*, N, F); by default of `FRAMES` frames.
        visual: lips (*, N, D), for a model that has them; a pair needs none to be given.
        kwargs: further arguments of a Pyro function or module.

    Raises:
        InputError: an unknown model, no program, or arguments that it does not take or lacks.
    """
    named = {"power": power, "visual": visual}
    given = {name: torch.as_tensor(value) for name, value in named.items() if value is not None}
    with _nothing_changed():
        if isinstance(model, str | Path | SpeechPair):
            if args or kwargs:
                raise InputError("a pair takes power and visual alone; leave the other arguments out")
            return _of_pair(pair_named(model), given)
        if not callable(model) or inspect.isclass(model):
            raise InputError(f"{model!r}: give a name, a pair, a speech model or a Pyro function")
        if isinstance(model, SpeechModel) and not args and not kwargs:
            return Shown(*_of_speech(model, type(model).__name__, _with_power(model, given)))
        if isinstance(model, NoisySpeech) and not args and not kwargs:
            given = _with_power(model, given)
        return Shown({"model": _called(model, args, {**given, **kwargs})})


def _of_pair(pair: SpeechPair, given: Mapping[str, Tensor]) -> Shown:
    data = dict(given)
    front_end, device = pair.config.lips, pair.device
    frames = next((own.shape[:-1] for own in given.values()), (FRAMES,))
    if "power" not in data:
        data["power"] = torch.ones(*frames, pair.stft.bins, device=device)
    if "visual" not in data and front_end is not None:
        data["visual"] = torch.ones(*frames, front_end.size, device=device)
    stories, notes = _of_speech(pair.model, pair.name, data)
    guide = speech_guide(pair.guide, pair.model)
    with torch.no_grad():
        stories["guide"] = story_of(
            guide, f"{pair.name}, guide of clean speech", (), data, GUIDE_INPUTS, True
        )
    return Shown(stories, notes)


def _of_speech(
    model: SpeechModel, name: str, data: Mapping[str, Tensor]
) -> tuple[dict[str, Story], tuple[str, ...]]:
    """Clean speech, and noisy speech with the NMF noise that inference starts from."""
    stories = {"speech": story_of(model, f"{name}, clean speech", (), data, MODEL_INPUTS, True)}
    if coupling_of(model) == Coupling.ALPHA:
        return stories, ("Its noisy speech is no single Pyro program: inference takes alpha as a chain.",)
    noise = QuantileInit()(data["power"], Generator(data["power"].device))

    def noisy(power: Tensor, visual: Tensor | None = None) -> Tensor:
        # As `NoisySpeech`, which would become the owner of the model and of the names of its parameters.
        return sample_noisy(model, noise, power, visual)

    title = f"{name}, noisy speech with an NMF noise that EM fits"
    stories["noisy"] = story_of(noisy, title, (), data, MODEL_INPUTS, True)
    return stories, ()


def _with_power(model: SpeechModel | NoisySpeech, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The data with a power that is observed, by default one that the model draws."""
    if "power" in given:
        return dict(given)
    length = {} if given or isinstance(model, NoisySpeech) else {"frames": FRAMES}
    with torch.no_grad():
        return {**given, "power": model(**given, **length)}


def _called(model: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Story:
    """The story of any program, whose arguments are checked before."""
    forward = model.forward if isinstance(model, nn.Module) else model
    name = getattr(model, "__name__", type(model).__name__)
    try:
        inspect.signature(forward).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"{name}: {error}; give its arguments, avse.show({name}, ...)") from error
    own = isinstance(model, SpeechModel | NoisySpeech)
    return story_of(model, name, args, kwargs, MODEL_INPUTS if own else {}, own)


def story_of(
    program: Program,
    title: str,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    enumerated: bool = False,
) -> Story:
    """The story of a Pyro program: one run for the sites, and one for what depends on what.

    Args:
        program: function or module.
        title: what it is.
        args: of the program.
        kwargs: of the program.
        inputs: tensors (*, N, any) among them that the story tells of: name in the story -> argument.
        enumerated: inference sums over all discrete sites that can be enumerated; else over those that say
            so in `infer`.
    """
    own = dict(kwargs or {})
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(program).get_trace(*args, **own)
    relations = get_model_relations(program, args, own, include_deterministic=True)
    sites = []
    for name, argument in (inputs or {}).items():
        if own.get(argument) is not None and name not in trace.nodes:
            children = _sites_given(argument, program, args, own)
            relations = _with_input(name, relations, children)
            sites.append(_input(name, own[argument], trace))
    for name, node in trace.nodes.items():
        if node["type"] == "param":
            sites.append(_parameter(name, node))
        elif node["type"] == "sample" and not poutine.util.site_is_subsample(node):
            sites.append(_site(name, node, relations, enumerated))
    whole = tuple(_merged(sites))
    return Story(title, whole, relations, _sizes(whole))


def _sites_given(
    argument: str, program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[str]:
    """The sites whose distribution depends on an argument, and not through another site alone."""
    marked = {**kwargs, argument: ProvenanceTensor(kwargs[argument], frozenset({argument}))}
    with torch.no_grad(), pyro.validation_enabled(False), TrackProvenance(include_deterministic=True):
        trace = poutine.trace(program).get_trace(*args, **marked)
        return [
            name
            for name, node in trace.nodes.items()
            if node["type"] == "sample"
            and not poutine.util.site_is_subsample(node)
            and argument in get_provenance(node["fn"].log_prob(detach_provenance(node["value"])))
        ]


def _with_input(name: str, relations: Mapping[str, Any], children: Sequence[str]) -> dict[str, Any]:
    """The relations with an input as an observed node in the plates of the frames."""
    parents = {
        site: [name, *own] if site in children else own for site, own in relations["sample_sample"].items()
    }
    return {
        **relations,
        "sample_sample": {name: [], **parents},
        "sample_param": {name: [], **relations["sample_param"]},
        "sample_dist": {name: "input", **relations["sample_dist"]},
        "plate_sample": {
            plate: [name, *names] if plate in PLATE_LETTERS else names
            for plate, names in relations["plate_sample"].items()
        },
        "observed": [name, *relations["observed"]],
    }


def _input(name: str, value: Tensor, trace: poutine.Trace) -> Site:
    """An input as the first entry of a story, in the plates of recordings, channels and frames."""
    plates = {
        frame.name: (frame.name, frame.size)
        for node in trace.nodes.values()
        if node["type"] == "sample"
        for frame in node["cond_indep_stack"]
    }
    own = tuple(plates[each] for each in reversed(PLATE_LETTERS) if each in plates)
    return Site(name, "input", (), own, tuple(value.shape[:-1]), tuple(value.shape[-1:]), "input")


def _site(name: str, node: Mapping[str, Any], relations: Mapping[str, Any], enumerated: bool) -> Site:
    distribution, infer = node["fn"], node["infer"]
    kind = relations["sample_dist"][name]
    role, values = "latent", None
    if infer.get("_deterministic"):
        role = "deterministic"
    elif kind == "Unit":
        role = "factor"
    elif node["is_observed"]:
        role = "observed"
    elif distribution.has_enumerate_support and (enumerated or infer.get("enumerate")):
        role, values = "enumerated", len(distribution.enumerate_support(expand=False))
    return Site(
        name,
        kind,
        tuple(relations["sample_sample"][name])
        + tuple(each for each in relations["sample_param"][name] if MODULE_SEPARATOR not in each),
        tuple((frame.name, frame.size) for frame in sorted(node["cond_indep_stack"], key=_left_first)),
        tuple(distribution.batch_shape),
        tuple(distribution.event_shape),
        role,
        values,
    )


def _left_first(frame: Any) -> int:
    """Plates of the leftmost dimension first, and before them the sequential ones, which have none."""
    return -sys.maxsize if frame.dim is None else int(frame.dim)


def _parameter(name: str, node: Mapping[str, Any]) -> Site:
    constraint = str(node["kwargs"].get("constraint", "Real()"))
    return Site(name, constraint, (), (), (), tuple(node["value"].shape), "parameter")


def _merged(sites: Sequence[Site]) -> Iterator[Site]:
    """The parameters of each module as one entry, where the first of them is."""
    modules: dict[str, list[Site]] = {}
    for site in sites:
        if MODULE_SEPARATOR in site.name:
            modules.setdefault(site.name.split(MODULE_SEPARATOR)[0], []).append(site)
    for site in sites:
        if MODULE_SEPARATOR not in site.name:
            yield site
            continue
        module = site.name.split(MODULE_SEPARATOR)[0]
        if modules[module][0] is site:
            count = sum(torch.Size(each.event_shape).numel() for each in modules[module])
            text = f"module of {len(modules[module])} tensors"
            yield Site(module, text, (), (), (), (count,), "parameter")


def _sizes(sites: Sequence[Site]) -> dict[str, int]:
    """Letter -> size, of the sites that this package names; the first site decides."""
    found: dict[str, int] = {}
    for site in sites:
        if site.role == "parameter":
            continue
        sizes = (*site.batch_shape, *site.event_shape)
        for letter, size in zip(_letters_of(site.name, len(sizes)), sizes, strict=True):
            if letter:
                found.setdefault(letter, size)
        if site.name == ALPHA and site.values is not None:
            found.setdefault("A", site.values)
    return {letter: found[letter] for letter in sorted(found)}


def _letters_of(name: str, dimensions: int) -> list[str]:
    """Letters of the dimensions of a site's value, "" where there is none."""
    own = LETTERS.get(name, ())
    whole = [*reversed(LEADING), *own] if own else []
    padded = [""] * max(0, dimensions - len(whole)) + whole
    return padded[len(padded) - dimensions :]


def _shape(sizes: Sequence[str]) -> str:
    return f"({', '.join(sizes)})"


@contextmanager
def _nothing_changed() -> Iterator[None]:
    """Inside, programs draw from generators of their own, and Pyro's parameter store is restored after it."""
    store = pyro.get_param_store()
    with (
        TRACE_LOCK,
        torch.random.fork_rng(range(torch.cuda.device_count())),
        store.scope(store.get_state()),
        local_parameters(),
    ):
        torch.manual_seed(0)
        yield
