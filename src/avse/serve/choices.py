"""What the page offers: models, the algorithms that serve each, and the priors that may replace its own.

Nothing heavy is imported, so that a combination that is not offered is refused before anything is computed.
"""

from dataclasses import dataclass
from types import MappingProxyType

from avse.data.errors import InputError
from avse.zoo.pair import WITHOUT_AMORTISATION

OWN = "own"
"""The prior that the model was trained with."""
AUTO = "auto"
AMORTISED = tuple(WITHOUT_AMORTISATION)
"""Algorithms whose z comes from a trained guide, so that another prior would not be heard."""

ALGORITHMS = MappingProxyType(
    {
        AUTO: "the one that suits the model best",
        "amortised": "amortised EM: z from the encoder",
        "amortised-lips": "amortised EM by sound and with lips, and a weighted mean",
        "mcem": "Monte Carlo EM",
        "mcem-lips": "Monte Carlo EM, started from the lips, too",
        "mcem-branches": "Monte Carlo EM, started from both encoders",
        "mcem-mixture": "Monte Carlo EM, chains for each alpha",
        "mcem-anchored": "EM of the sound, Monte Carlo EM with lips, and a weighted mean",
        "vem": "variational EM",
        "paper-hmc": "Monte Carlo EM, 100 iterations with HMC (slow)",
        "mcmc": "MCMC: four long chains of HMC (slow)",
    }
)
"""Presets of `avse.inference.presets` and what they are."""

PRIORS = MappingProxyType(
    {
        OWN: "as trained",
        "standard": "N(0, I)",
        "narrow": "N(0, 0.5² I), narrower",
        "wide": "N(0, 2² I), wider",
        "student-t": "Student-t, 5 degrees of freedom: heavy tails",
        "laplace": "Laplace of unit variance: a peak and heavy tails",
        "two-normals": "½ N(0, 0.5² I) + ½ N(0, 1.5² I), with alpha",
    }
)
"""Names of priors of z and what they are."""


@dataclass(frozen=True)
class ModelChoice:
    """A model of the zoo on the page.

    Attributes:
        name: in the zoo, or "auto".
        label: for people.
        algorithms: that serve it, the first one is chosen at first.
        priors: that may take the place of its own, which comes first.
        alpha: what each value of alpha stands for, from alpha = 0 on; empty for a model without alpha.
    """

    name: str
    label: str
    algorithms: tuple[str, ...] = (AUTO,)
    priors: tuple[str, ...] = (OWN,)
    alpha: tuple[str, ...] = ()


_SOUND_PRIORS = (OWN, "narrow", "wide", "student-t", "laplace", "two-normals")
_LIPS_PRIORS = (OWN, "standard", "narrow", "wide", "student-t", "laplace")
_ENCODERS = ("lips", "sound")

MODELS = {
    choice.name: choice
    for choice in (
        ModelChoice(AUTO, "automatic: with lips where the recording shows them, else by the sound"),
        ModelChoice(
            "a-vae",
            "A-VAE: sound alone",
            (AUTO, "amortised", "mcem", "vem", "paper-hmc", "mcmc"),
            _SOUND_PRIORS,
        ),
        ModelChoice(
            "v-vae", "V-VAE: its encoder sees the lips alone", (AUTO, "mcem", "vem"), _SOUND_PRIORS[:-1]
        ),
        ModelChoice(
            "av-vae", "AV-VAE: sound and lips", (AUTO, "mcem-lips", "mcem", "vem", "paper-hmc"), _LIPS_PRIORS
        ),
        ModelChoice(
            "av-vae-synthetic",
            "AV-VAE of the synthetic talking mouth",
            (AUTO, "mcem-lips", "mcem", "vem", "paper-hmc"),
            _LIPS_PRIORS,
        ),
        ModelChoice(
            "vae-mm",
            "VAE-MM: mixture of A-VAE and AV-VAE",
            (AUTO, "amortised-lips", "mcem-anchored", "mcem-mixture", "vem"),
            alpha=("sound and lips (AV-VAE)", "sound alone (A-VAE)"),
        ),
        ModelChoice(
            "min-vae-v1",
            "MIN-VAE, version 1: mixture of encoders",
            (AUTO, "mcem-branches", "vem"),
            alpha=_ENCODERS,
        ),
        ModelChoice(
            "min-vae-v2",
            "MIN-VAE, version 2: its decoder sees the lips, too",
            (AUTO, "mcem-branches", "vem"),
            alpha=_ENCODERS,
        ),
    )
}
"""The models by name."""

TWO_NORMALS_ALPHA = ("standard deviation 0.5", "standard deviation 1.5")
"""What alpha stands for under the prior "two-normals"."""


def check_choice(model: str, algorithm: str, prior: str) -> None:
    """Refuse what the page does not offer, or what does not go together.

    Raises:
        InputError: an unknown name, an algorithm that does not serve the model, a prior that the model cannot
            take, or one that the algorithm would not ask.
    """
    if model not in MODELS:
        raise InputError(f"unknown model: choose one of {', '.join(MODELS)}")
    choice = MODELS[model]
    if algorithm not in choice.algorithms:
        raise InputError(f"this algorithm is not offered with {model}: choose {_either(choice.algorithms)}")
    if prior not in choice.priors:
        raise InputError(f"this prior is not offered with {model}: choose {_either(choice.priors)}")
    if prior != OWN and algorithm in AMORTISED:
        raise InputError(
            f"algorithm {algorithm} takes z from a trained encoder and asks no prior: choose mcem"
        )


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(names)
