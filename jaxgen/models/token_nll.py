"""What each token of a held-out text costs, beside the hidden state that predicted it."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from jaxgen.models.language_model import LanguageModel, LanguageModelCarry
from jaxgen.ops.cross_entropy import cross_entropy
from jaxgen.types import Array, Float, PyTree


def token_nll(
    model: LanguageModel, params: PyTree, carry: LanguageModelCarry, batch: Mapping[str, Array]
) -> tuple[LanguageModelCarry, Float[Array, "B T"], Float[Array, "B T H"]]:
    """Read one batch as `language_model_loss` does, without dropout.

    Args:
        model: the module.
        params: its parameters.
        carry: state before the batch.
        batch: as of `language_model_loss`; costs of targets that do not count are given too.

    Returns:
        The carry after the batch; nats of each target; and the output of the last layer before it.
    """
    tokens = batch["tokens"].T
    mask, resets = (batch[name].T if name in batch else None for name in ("mask", "resets"))

    def run(model: LanguageModel) -> tuple:
        after, hidden = model.hidden_states(tokens[:-1], carry, mask, resets)
        logits = model.logits(hidden.reshape(-1, hidden.shape[-1]))
        nll = cross_entropy(logits, tokens[1:].reshape(-1))
        return after, nll.reshape(hidden.shape[:2]).T, hidden.swapaxes(0, 1)

    outputs: Any = nn.apply(run, model)({"params": params})
    return outputs
