"""What an engine counts: requests, tokens, the use of its slots, and how long things took."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of times."""


@dataclass
class Histogram:
    """Counts of values by bucket, as Prometheus wants them."""

    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=list)
    """Values in each bucket (not cumulative); the last holds what is above all bounds."""
    total: float = 0.0
    """Sum of the values."""

    def __post_init__(self) -> None:
        """Start empty."""
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float, count: int = 1) -> None:
        """A value, `count` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


@dataclass
class Counters:
    """All since the engine was made, except where it says now."""

    slots: int = 0
    """Slots for texts without rare settings."""
    active: int = 0
    """Texts in slots now."""
    waiting: int = 0
    """Requests that wait for a slot now."""
    tokens_ahead: int = 0
    """Tokens that accepted requests may still read and generate now, at most."""
    requests: Counter[str] = field(default_factory=Counter)
    """By outcome: "stop", "length", "cancelled", "error" (the request failed), "full" (not
    accepted), "stopped" (refused by an engine that stops or has failed)."""
    prompt_tokens: int = 0
    """Tokens that were read."""
    generated_tokens: int = 0
    dispatches: int = 0
    dispatch_seconds: Histogram = field(default_factory=Histogram)
    """How long each took, from its start to its results."""
    slot_steps: int = 0
    """Slots times steps of all dispatches that generated; beside it `generated_tokens` gives the
    batch occupancy."""
    queue_seconds: Histogram = field(default_factory=Histogram)
    """From `submit` to a slot."""
    first_token_seconds: Histogram = field(default_factory=Histogram)
    """From `submit` to the first token."""
    token_seconds: Histogram = field(default_factory=Histogram)
    """Of each further token of a text: the mean of each text, counted as often as it has tokens."""
    tokens_per_second: float = 0.0
    """Read and generated while the engine works, a mean of the last seconds."""
