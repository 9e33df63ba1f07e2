"""What a translator is held against: the target of the training source most like the source."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.ngram_matches import occurrences

Split = Callable[[str], Sequence[Hashable]]


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
        self._places = {word: np.array(of, np.int64) for word, of in places.items()}
        self._lengths = np.array([len(split(source)) for source in sources])

    def nearest(self, source: str) -> int:
        """Number of the pair whose source shares most words with this one; -1: none shares any.

        By the F1 score of the words (Dice), repeated ones counted; of equals the first pair.
        """
        words = occurrences(self._split(source))
        found = [self._places[word] for word in words if word in self._places]
        if not found:
            return -1
        shared = np.bincount(np.concatenate(found), minlength=len(self._lengths))
        return int((shared / (self._lengths + len(words))).argmax())

    def translate(self, sources: Sequence[str]) -> list[str]:
        """The target of the nearest pair for each source; empty where nothing is shared."""
        places = map(self.nearest, sources)
        return ["" if place < 0 else self._targets[place] for place in places]
