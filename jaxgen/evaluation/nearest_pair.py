"""What a translator is held against: the target of the training source most like the source."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.ngram_matches import occurrences
from jaxgen.types import Int, Shaped

Split = Callable[[str], Sequence[Hashable]]
DENSE = 1 / 32
"""Words of more than this share of the sources have a row of marks instead of a list of places."""


class NearestPairs:
    """Training pairs by the words of their sources: an inverted index."""

    def __init__(self, sources: Sequence[str], targets: Sequence[str], split: Split = str.split):
        """Index the pairs.

        Args:
            sources: N texts.
            targets: their targets.
            split: makes a text words; `list` takes its characters, for texts without blanks.

        Raises:
            UserError: there are no pairs, or not as many targets as sources.
        """
        if len(sources) != len(targets) or not len(sources):
            raise UserError(
                "the pairs to copy from need one target for each source, and at least one, got "
                f"{len(sources)} sources and {len(targets)} targets"
            )
        self._targets, self._split = targets, split
        places: dict[Hashable, list[int]] = defaultdict(list)
        for place, source in enumerate(sources):
            for word in occurrences(split(source)):
                places[word].append(place)
        count = len(sources)
        self._places = {word: _marked(np.array(of), count) for word, of in places.items()}
        self._lengths = np.array([len(split(source)) for source in sources])

    def nearest(self, source: str) -> int:
        """Number of the pair whose source shares most words with this one; -1: none shares any.

        By the F1 score of the words (Dice), repeated ones counted; of equals the first pair.
        """
        words = occurrences(self._split(source))
        shared = np.zeros(len(self._lengths), np.int32)
        for found in (self._places[word] for word in words if word in self._places):
            if found.dtype == bool:
                shared += found
            else:
                shared[found] += 1  # each place once
        if not shared.any():
            return -1
        return int((shared / (self._lengths + len(words))).argmax())

    def translate(self, sources: Sequence[str]) -> list[str]:
        """The target of the nearest pair for each source; empty where nothing is shared."""
        places = map(self.nearest, sources)
        return ["" if place < 0 else self._targets[place] for place in places]


def _marked(places: Int[np.ndarray, " K"], count: int) -> Shaped[np.ndarray, " _"]:
    """Some of so many places; or where they are a large share, True at each of them."""
    if len(places) <= DENSE * count:
        return places
    marks = np.zeros(count, bool)
    marks[places] = True
    return marks
