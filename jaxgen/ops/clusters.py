"""The clusters of an adaptive softmax: which tokens stand in its head, and which in each tail."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import Int

_CANDIDATES = 32
_MARGIN = 0.03
"""Share of the rows that a tail is computed for beyond its own; see `capacity`."""


@dataclass(frozen=True)
class Clusters:
    """A division of a vocabulary by frequency; hashable, so that it may be static.

    Cluster 0 is the shortlist, whose tokens the head scores; each other one is a tail. Within a
    cluster tokens are in the order of their ids.
    """

    cutoffs: tuple[int, ...]
    """Tokens up to the end of each cluster but the last, counted from the most frequent."""
    shares: tuple[float, ...]
    """Share of the training text that each cluster holds."""
    order: bytes = field(repr=False)
    """int32 ids of all tokens, cluster by cluster."""

    @cached_property
    def ids(self) -> Int[np.ndarray, "V"]:
        """Ids of all tokens, cluster by cluster."""
        return np.frombuffer(self.order, "<i4").astype(np.int32)

    @cached_property
    def ranks(self) -> Int[np.ndarray, "V"]:
        """Where each token stands in `ids`."""
        ranks = np.empty_like(self.ids)
        ranks[self.ids] = np.arange(len(self.ids), dtype=np.int32)
        return ranks

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """Where in `ids` each cluster begins, and the size of the vocabulary."""
        return (0, *self.cutoffs, len(self.ids))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of each cluster."""
        return tuple(end - begin for begin, end in pairwise(self.bounds))

    @cached_property
    def cluster_of(self) -> Int[np.ndarray, "V"]:
        """The cluster of each token."""
        return np.searchsorted(self.cutoffs, self.ranks, side="right").astype(np.int32)

    @cached_property
    def place_of(self) -> Int[np.ndarray, "V"]:
        """Where in its cluster each token stands."""
        return self.ranks - np.asarray(self.bounds, np.int32)[self.cluster_of]

    def members(self, cluster: int) -> Int[np.ndarray, "n"]:
        """Ids of the tokens of a cluster, rising."""
        return self.ids[self.bounds[cluster] : self.bounds[cluster + 1]]

    def to_text(self) -> str:
        """As JSON."""
        content = {"cutoffs": self.cutoffs, "shares": self.shares, "order": self.ids.tolist()}
        return json.dumps(content) + "\n"

    @classmethod
    def from_text(cls, text: str) -> "Clusters":
        """What `to_text` wrote."""
        content = json.loads(text)
        order = np.asarray(content["order"], "<i4").tobytes()
        return cls(tuple(content["cutoffs"]), tuple(content["shares"]), order)


def make_clusters(counts: Any, cutoffs: tuple[int, ...] = (), *, tails: int = 2) -> Clusters:
    """Divide a vocabulary by how often each token occurs; of equals the lower id comes first.

    Args:
        counts: Int[V], occurrences of each token in the training text.
        cutoffs: tokens up to the end of each cluster but the last; none: those with the fewest
            scores a target, were each tail computed for its own targets and a few more.
        tails: most clusters beside the shortlist, where cut-offs are chosen.

    Raises:
        UserError: cut-offs do not rise, or do not lie within the vocabulary; or it has one token.
    """
    counts = np.asarray(counts, np.int64)
    by_count = np.argsort(-counts, kind="stable")
    mass = np.cumsum(np.maximum(counts[by_count], 1e-9))
    held = np.concatenate([[0.0], mass / mass[-1]])
    if cutoffs:
        check_cutoffs(cutoffs, len(counts))
    elif len(counts) < 2:
        raise UserError(
            f"`output` adaptive needs a vocabulary of 2 tokens or more, got {len(counts)}; use full"
        )
    else:
        cutoffs = _cheapest_cutoffs(held, tails)
    bounds = (0, *cutoffs, len(counts))
    ids = np.concatenate([np.sort(by_count[begin:end]) for begin, end in pairwise(bounds)])
    shares = tuple(float(held[end] - held[begin]) for begin, end in pairwise(bounds))
    return Clusters(tuple(map(int, cutoffs)), shares, ids.astype("<i4").tobytes())


def check_cutoffs(cutoffs: tuple[int, ...], vocab_size: int | None = None) -> None:
    """UserError where cut-offs do not rise, or do not lie within the vocabulary."""
    shown = " ".join(map(str, cutoffs))
    if cutoffs[0] < 1 or any(end <= begin for begin, end in pairwise(cutoffs)):
        raise UserError(
            f"`cutoffs` must rise from 1 or more, got {shown}; "
            "give the ends of clusters, such as 2000 10000, or none to have them chosen"
        )
    if vocab_size is not None and cutoffs[-1] >= vocab_size:
        raise UserError(
            f"`cutoffs` must lie below the vocabulary of {vocab_size} tokens, got {shown}; "
            "lower the last, or give none to have them chosen"
        )


def tail_sizes(size: int, divisor: float, number: int) -> tuple[int, ...]:
    """Numbers that each tail reads: the layer's over `divisor`, over its square, and so on.

    Raises:
        UserError: the divisor is below 1, or leaves nothing to the last tail.
    """
    sizes = tuple(int(size // divisor ** (1 + tail)) for tail in range(number))
    if divisor < 1 or not sizes[-1]:
        raise UserError(
            f"`tail_divisor` must be at least 1 and leave each tail a part of the {size} numbers "
            f"that the output layer reads, got {divisor:g} for {number} tails; lower it, or give "
            "fewer `cutoffs`"
        )
    return sizes


def capacity(share: float, rows: int) -> int:
    """Rows of a batch that a tail computes at once: those expected, and a little more."""
    expected = share * rows
    wanted = int(1.1 * expected + 2 * expected**0.5)
    return min(rows, wanted + -wanted % 16 or 16)


def _cheapest_cutoffs(held: np.ndarray, tails: int) -> tuple[int, ...]:
    """Cut-offs with the fewest scores a target; `held` is the share of so many tokens."""
    vocab_size = len(held) - 1
    smallest = max(1, min(vocab_size // 2, 16))
    grid = np.geomspace(smallest, vocab_size - 1, _CANDIDATES).round().astype(int)
    candidates = sorted({int(point) for point in grid})

    def cost(cutoffs: tuple[int, ...]) -> float:
        bounds = pairwise((*cutoffs, vocab_size))
        tails = sum((held[end] - held[begin] + _MARGIN) * (end - begin) for begin, end in bounds)
        return cutoffs[0] + len(cutoffs) + tails

    numbers = range(1, tails + 1)
    return min((cut for number in numbers for cut in combinations(candidates, number)), key=cost)
