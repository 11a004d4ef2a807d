"""The cards of the shipped weights and of pairs that are saved: a head for the hub, and a text."""

import json
from pathlib import Path
from typing import Any

import pytest

import avse
from avse.zoo.card import front_matter, training_card, with_front_matter
from avse.zoo.pair import CARD, PairConfig, SpeechPair

WEIGHTS = Path(avse.__file__).parent / "zoo" / "weights"
FOLDERS = sorted(path.name for path in WEIGHTS.iterdir() if path.is_dir())


def head_and_body(card: str) -> tuple[dict[str, Any], str]:
    """The fields of a YAML head whose values are JSON, which is YAML, and the text after it."""
    start, head, body = card.split("---\n", 2)
    assert start == ""
    fields = {}
    for line in head.splitlines():
        name, _, value = line.partition(": ")
        assert name not in fields
        fields[name] = json.loads(value)
    return fields, body


@pytest.mark.parametrize("name", FOLDERS)
def test_shipped_cards_name_licence_data_and_metrics(name: str) -> None:
    fields, body = head_and_body((WEIGHTS / name / CARD).read_text(encoding="utf-8"))
    assert fields["license"] in {"cc-by-4.0", "mit"}
    assert fields["library_name"] == "avse"
    for several in ("datasets", "metrics", "tags"):
        assert fields[several]
        assert all(isinstance(each, str) and each for each in fields[several])
    assert body.startswith(f"\n# {name}: ")
    assert len(body.split()) > 50
    # Recordings under CC BY 4.0 ask for credit; the synthetic voice does not.
    assert (fields["license"] == "mit") == (fields["datasets"] == ["synthetic"])


def test_every_folder_of_weights_has_a_card() -> None:
    assert FOLDERS
    assert {path.parent.name for path in WEIGHTS.rglob("*.safetensors")} == set(FOLDERS)


@pytest.mark.parametrize("card", ["", " \n\t\n", "# Mine\n\nText.\n", '---\nlicense: "mit"\n---\n\n# Mine\n'])
def test_saved_cards_are_never_empty(card: str, tiny_config: PairConfig, tmp_path: Path) -> None:
    SpeechPair(tiny_config, card, name="tiny").save_pretrained(tmp_path)
    written = (tmp_path / CARD).read_text(encoding="utf-8")
    fields, body = head_and_body(written)
    assert fields["license"] == ("mit" if "mit" in card else "unknown")
    assert body.strip().startswith("# Mine" if "Mine" in card else "# tiny")
    assert with_front_matter(written, tiny_config, "tiny") == written


def test_odd_names_stay_within_the_head(tiny_config: PairConfig) -> None:
    odd = 'a"b\nlicense: "x"\n---\n'
    fields, body = head_and_body(front_matter(tiny_config, odd, [odd]) + "# Text\n")
    assert (fields["license"], fields["datasets"], body) == (odd, [odd], "# Text\n")


def test_the_card_of_a_run_tells_what_it_was_trained_on(tiny_config: PairConfig) -> None:
    record = {
        "recipe": "tiny",
        "corpora": [{"name": "grid"}, {"name": "folder"}],
        "settings": {"seed": 3},
        "epochs": 2,
        "train_frames": 10,
        "validation_elbo": -1.5,
        "versions": {"avse": "0.1.0"},
    }
    fields, body = head_and_body(training_card(tiny_config, record, "cc-by-4.0"))
    assert (fields["license"], fields["datasets"]) == ("cc-by-4.0", ["grid", "folder"])
    assert fields["metrics"]
    for row in ("| recipe | tiny |", "| speech | grid, folder |", "| seed | 3 |"):
        assert row in body
