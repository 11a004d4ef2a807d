"""Model cards: Markdown with a head in YAML, as the Hugging Face hub reads it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avse.zoo.pair import PairConfig

METRICS = ("si-sdr", "pesq", "stoi")
"""What `avse.evaluation` measures pairs by."""


def front_matter(
    config: "PairConfig", licence: str = "unknown", data: Sequence[str] = (), metrics: Sequence[str] = METRICS
) -> str:
    """The head of a card: licence of the weights, data, metrics and tags.

    Args:
        config: of the pair.
        licence: of the weights, in the words of the hub, such as "cc-by-4.0"; it depends on the speech.
        data: names of the corpora that the pair was trained on.
        metrics: that tell its quality.
    """
    tags = ["speech-enhancement", "variational-autoencoder", config.architecture]
    values: dict[str, Any] = {
        "license": licence,
        "library_name": "avse",
        "pipeline_tag": "audio-to-audio",
        "tags": [*tags, "audio-visual"] if config.lips is not None else tags,
        "datasets": list(data),
        "metrics": list(metrics),
    }
    # JSON values are YAML.
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---", ""])


def with_front_matter(card: str, config: "PairConfig", name: str) -> str:
    """A card that is never empty and has a head: one that was written stays as it is but for the head."""
    if card.startswith("---\n"):
        return card
    body = card if card.strip() else f"# {name}\n\nA pair of architecture {config.architecture}.\n"
    return f"{front_matter(config)}\n{body}"


def training_card(config: "PairConfig", record: Mapping[str, Any], licence: str = "unknown") -> str:
    """The card of a pair that was just trained.

    Args:
        config: of the pair.
        record: what the run's report says: recipe, corpora, seed, validation bound, versions.
        licence: of the weights; "unknown" until somebody who knows the speech says it.
    """
    rows = {
        "recipe": record["recipe"],
        "speech": ", ".join(corpus["name"] for corpus in record["corpora"]),
        "seed": record["settings"]["seed"],
        "epochs": record["epochs"],
        "training frames": record["train_frames"],
        "validation bound, nats a frame": record["validation_elbo"],
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    head = front_matter(config, licence, [corpus["name"] for corpus in record["corpora"]])
    return (
        f"{head}\n# {record['recipe'] or config.architecture}\n\n"
        f"Architecture {config.architecture}, trained by avse.\n\n| | |\n|---|---|\n{table}\n"
    )
