"""Protocols: which mixtures an evaluation is made of, by name.

| name | speech | noise | levels |
|---|---|---|---|
| `grid` | talking faces of a tree with `splits.csv` | files of the table; white, pink | any |
| `ntcd-timit` | 9 test speakers, 5 sentences in each of 6 noises | that of the released mixtures | any |
| `voicebank-demand` | the test set, or any two folders of equal names | in the pairs | as released |
| `folder` | all sound files and videos below a folder | files below a folder; white, pink | any |
| `synthetic` | 2 test voices of espeak-ng with drawn lips, 20 sentences each | white, pink | any |

A protocol is a small object that is pickled to workers: it lists specifications and makes each mixture. Any
object of the class `Protocol` will do.
"""

from avse.evaluation.protocols.base import LEVEL_DEFINITIONS, LEVELS, Mixed, Protocol, checked_levels
from avse.evaluation.protocols.folder import Folder
from avse.evaluation.protocols.grid import Grid
from avse.evaluation.protocols.ntcd_timit import NTCDTimit
from avse.evaluation.protocols.ready_pairs import ReadyPairs
from avse.evaluation.protocols.synthetic import Synthetic

PROTOCOLS: dict[str, type] = {
    protocol.name: protocol for protocol in (Grid, NTCDTimit, ReadyPairs, Folder, Synthetic)
}
"""Protocols by name."""

__all__ = [
    "LEVELS",
    "LEVEL_DEFINITIONS",
    "PROTOCOLS",
    "Folder",
    "Grid",
    "Mixed",
    "NTCDTimit",
    "Protocol",
    "ReadyPairs",
    "Synthetic",
    "checked_levels",
]
