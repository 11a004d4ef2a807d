"""The protocol `ntcd-timit`: test speakers, sentences and noises as in the papers on NTCD-TIMIT."""

import zlib
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np

from avse.data.corpora.base import Split
from avse.data.corpora.ntcd_timit import NOISES, NTCDTimitCorpus, NTCDUtterance
from avse.data.errors import InputError
from avse.evaluation.benchmark import Clip, MixtureSpec, cross
from avse.evaluation.protocols.base import Mixed, chosen_noises
from avse.evaluation.protocols.files import corpus_folder

SENTENCES = 5
"""Of every speaker in every noise."""


@dataclass(frozen=True, kw_only=True)
class NTCDTimit(Mixed):
    """9 test speakers, 5 sentences for each of 6 noises, the same at all levels: 270 mixtures a level.

    The release has levels of its own, -5 to 20 dB, that are no broadband ratios. So the noise is taken out of
    the released mixture of the lowest level, what is left of it without its projection on the clean speech,
    and mixed at the levels that are asked for.
    """

    name: ClassVar[str] = "ntcd-timit"

    def mixtures(self) -> list[MixtureSpec]:
        """For every speaker and noise the sentences that the seed draws.

        Raises:
            InputError: not the layout of the release, or a noise is not unpacked.
        """
        corpus = NTCDTimitCorpus(corpus_folder(self.root, "the folder that holds Clean and matlab_raw"))
        wanted = chosen_noises({name: [] for name in NOISES}, self.noises or NOISES, self.root)
        lowest = {noise: corpus.levels(noise)[:1] for noise in wanted}
        if empty := [noise for noise in wanted if not lowest[noise]]:
            raise InputError(f"{self.root}: no mixtures of {', '.join(empty)}; unpack the archives there")
        spoken: dict[str, list[NTCDUtterance]] = {}
        for utterance in corpus.utterances(cast(Split, self.split)):
            spoken.setdefault(utterance.speaker, []).append(utterance)
        specs = []
        for speaker in self._of_speakers(list(spoken)):
            for noise in wanted:
                generator = np.random.default_rng(zlib.crc32(f"{self.seed}/{speaker}/{noise}".encode()))
                for index in sorted(generator.permutation(len(spoken[speaker]))[:SENTENCES]):
                    utterance = spoken[speaker][index]
                    name = f"{speaker}/{utterance.sentence}"
                    lips = str(corpus.lips_path(utterance) or "")
                    clip = Clip(str(corpus.clean_path(utterance)), name, speaker, self.split, lips)
                    noisy = str(corpus.noisy_path(utterance, noise, lowest[noise][0]))
                    specs += [
                        replace(s, noisy=noisy, seed=zlib.crc32(f"{self.seed}/{s.mixture}".encode()))
                        for s in cross(
                            [clip], {noise: []}, self.levels, level_definition=self.level_definition
                        )
                    ]
        return specs[:: self.share]
