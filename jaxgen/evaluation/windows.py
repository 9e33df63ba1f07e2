"""Loss of the token that follows a window, each window read from a zero carry."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.evaluation.perplexity import Nll
from jaxgen.ops.cross_entropy import cross_entropy
from jaxgen.types import Array, Float, Int


def window_nll(
    last_logits: Callable[[Int[Array, "B W"]], Float[Array, "B V"]],
    tokens: Int[np.ndarray, " N"],
    *,
    window: int = 60,
    step: int = 3,
    batch_size: int = 256,
) -> Nll:
    """Nll of the token after each window, every `step`-th window that fits.

    The defaults are those of the Keras example "Character-level text generation with LSTM", whose
    validation loss this is.

    Args:
        last_logits: Reads windows from a zero carry, and predicts the token after each.
        tokens: The text.
        window: Tokens read.
        step: From the start of one window to that of the next.
        batch_size: Windows in one call; the last ones are filled up.

    Raises:
        UserError: The text is no longer than one window.
    """
    if len(tokens) <= window:
        raise UserError(
            f"the text has {len(tokens)} tokens, and the windows protocol needs more than {window};"
            " evaluate with --protocol exact"
        )
    rows = np.lib.stride_tricks.sliding_window_view(tokens, window + 1)[::step]
    total = 0.0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        filled = np.resize(batch, (batch_size, window + 1))
        logits = last_logits(jnp.asarray(filled[:, :-1]))
        nll = np.asarray(cross_entropy(logits, jnp.asarray(filled[:, -1])), np.float64)
        total += float(nll[: len(batch)].sum())
    return Nll(total, len(rows))
