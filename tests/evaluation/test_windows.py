"""The loss of the token after each window, against a loop over the windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.windows import window_nll

TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(7, 7)), jnp.float32)


def last_logits(windows):
    """A model that adds up what follows each token of the window."""
    return TABLE[windows].sum(axis=1)


@pytest.mark.parametrize("length", [6, 19, 20, 21])
def test_each_window_counts_once(length):
    """Batches of 4 that are filled up, or fit; a text of one window, or with a rest."""
    tokens = np.random.default_rng(1).integers(0, 7, length).astype(np.int32)
    result = window_nll(last_logits, tokens, window=5, step=2, batch_size=4)
    starts = range(0, length - 5, 2)
    log_p = [
        jax.nn.log_softmax(TABLE[tokens[start : start + 5]].sum(axis=0))[tokens[start + 5]]
        for start in starts
    ]
    assert result.count == len(starts)
    assert result.total == pytest.approx(-float(sum(log_p)), rel=1e-5)


def test_a_text_of_no_window_is_refused():
    with pytest.raises(UserError, match=r"has 5 tokens.*more than 5"):
        window_nll(last_logits, np.zeros(5, np.int32), window=5)
