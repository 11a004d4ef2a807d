"""A noisy talking face that needs no download, for demonstrations and examples."""

from typing import NamedTuple

import numpy as np

from avse.data.audio import Samples
from avse.data.corpora.synthetic.corpus import SyntheticCorpus
from avse.data.lips import Lips
from avse.data.mixing import mix, pink_noise


class TalkingFace(NamedTuple):
    """A synthetic recording: clean and noisy samples (T,), their rate in Hz, and the drawn lips."""

    clean: Samples
    noisy: Samples
    sample_rate: int
    lips: Lips


def talking_face(seed: int) -> TalkingFace:
    """A synthetic voice with a drawn mouth in pink noise at -5 dB.

    The speaker is in the training data of the model `av-vae-synthetic`, the sentence is not.
    """
    sentences = SyntheticCorpus(sentences=120).utterances("train")
    face = sentences[20 + seed % 100]  # the model was trained on the first twenty
    assert face.load_lips is not None
    clean, rate = face.load_audio()
    noisy, _ = mix(clean, pink_noise(len(clean), np.random.default_rng(seed)), -5.0)
    return TalkingFace(clean, noisy, rate, face.load_lips())
