"""Nats per token in other units."""

import math
from dataclasses import dataclass


def perplexity(nll: float) -> float:
    """exp(nats per token), infinite where that overflows."""
    return math.exp(nll) if nll < 700.0 else math.inf


def bits(nll: float) -> float:
    """Nats in bits: of a character or byte model, bits per character."""
    return nll / math.log(2.0)


@dataclass(frozen=True)
class Nll:
    """Negative log-likelihood of a text."""

    total: float
    """Sum over the tokens, nats."""
    count: int
    """Tokens."""

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.total / max(self.count, 1)
