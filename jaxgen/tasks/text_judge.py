"""A small language model that judges texts: trained on some, it measures others.

Trained on real texts, its nats per token of samples are the language-model score; trained on
samples, those of real texts are the reverse score (Zhao et al. 2018; Semeniuta et al. 2018), which
is high where the samples leave out much. Its features of texts make the Fréchet distance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgen.models.language_model import LanguageModel
from jaxgen.types import Array, Float, Int, PyTree


@dataclass(frozen=True, eq=False)
class TextJudge:
    """A trained judge of rows of tokens [N, T], right-padded, with their lengths."""

    model: LanguageModel
    """Of one token more than the texts have: the last one stands before each text."""
    params: PyTree
    held_out_nll: float
    """Nats per token of those of its own texts that it was not trained on."""

    def nll(self, tokens: Int[Any, "N T"], lengths: Int[Any, "N"] | None = None) -> float:
        """Mean nats per token over all tokens of some texts.

        A token that ends texts counts where the lengths count it.
        """
        raise NotImplementedError

    def features(
        self, tokens: Int[Any, "N T"], lengths: Int[Any, "N"] | None = None
    ) -> Float[np.ndarray, "N H"]:
        """The mean of the last layer's outputs over the tokens of each text."""
        raise NotImplementedError


def train_judge(
    tokens: Int[Any, "N T"],
    lengths: Int[Any, "N"] | None,
    vocab_size: int,
    *,
    seed: int = 0,
    epochs: int = 10,
    batch_size: int = 64,
    hidden_size: int = 128,
    embedding_size: int = 64,
    learning_rate: float = 3e-3,
    dropout: float = 0.3,
    progress: Callable[[str], None] = lambda done: None,
) -> TextJudge:
    """Train a judge of texts, always by the same budget, so that judges compare.

    A tenth of the texts is held out, and the parameters after the epoch that fits it best are
    taken. Judges of equal sizes and numbers of texts share their compiled programs.

    Raises:
        UserError: there are fewer than 10 texts, or tokens out of the vocabulary.
    """
    raise NotImplementedError
