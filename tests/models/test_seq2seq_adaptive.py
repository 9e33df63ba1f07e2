"""The encoder-decoder's adaptive output by NumPy: log-probabilities, losses and accuracy."""

from functools import partial

import jax
import numpy as np
import pytest
from models.tiny_seq2seq import (
    CLUSTERED,
    SMOOTHING,
    T,
    V,
    batch_of,
    loss_and_gradient,
    made,
    read,
)
from scipy.special import log_softmax

from jaxgen.models.seq2seq import seq2seq_loss

pytestmark = pytest.mark.slow


def adaptive_by_numpy(params, hidden):
    """Log-probabilities of all tokens in float64; the embedding's rows score the head's."""
    hidden, table, output = jax.tree.map(
        lambda x: np.asarray(x, np.float64), (hidden, params["embedding"], params["output"])
    )
    kernel = np.concatenate([table[CLUSTERED[0]].T, output["head_kernel"]], axis=1)
    head = log_softmax(hidden @ kernel + output["head_bias"], axis=-1)
    found = np.zeros((*hidden.shape[:-1], V))
    found[..., CLUSTERED[0]] = head[..., :3]
    for tail in (0, 1):
        projection, kernel, bias = (
            output[f"tail_{tail}_{name}"] for name in ("projection", "kernel", "bias")
        )
        within = log_softmax(hidden @ projection @ kernel + bias, axis=-1)
        found[..., CLUSTERED[tail + 1]] = head[..., 3 + tail, None] + within
    return found


def test_an_adaptive_output_by_numpy():
    """Its log-probabilities, smoothed loss and accuracy, and the same loss and gradient with a key.

    With a key the tails are computed for their own targets alone.
    """
    model, params = made("adaptive")
    batch = batch_of(weights=(1, 1, 0, 1))

    def run(model):
        carry = model.encode(batch.sources, batch.source_lengths)
        return model.decode(batch.targets[:, :-1], carry)[1]

    hidden = jax.jit(partial(model.apply, method=run))({"params": params})
    log_p = adaptive_by_numpy(params, hidden)
    np.testing.assert_allclose(read(model, params, batch), log_p, rtol=1e-4, atol=1e-5)
    targets = np.asarray(batch.targets[:, 1:])
    counts = (np.asarray(batch.target_lengths) - 1) * np.asarray(batch.weights)
    real = np.arange(T) < counts[:, None]
    nll = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0][real]
    loss, aux, _ = loss_and_gradient(model, params, batch)
    smoothed = (1 - SMOOTHING) * nll.mean() - SMOOTHING * log_p[real].mean()
    np.testing.assert_allclose(loss, smoothed, rtol=1e-5)
    np.testing.assert_allclose(aux.sums["nll"].total, nll.sum(), rtol=1e-5)
    hits = (log_p.argmax(-1) == targets)[real].sum()
    assert float(aux.sums["token_accuracy"].total) == hits
    run = jax.jit(jax.value_and_grad(partial(seq2seq_loss, model), has_aux=True))
    ours, theirs = (run(params, (), batch, key) for key in (jax.random.key(0), None))
    assert set(ours[0][1].sums) == {"nll"}
    np.testing.assert_allclose(ours[0][0], nll.mean(), rtol=1e-5)
    check = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(check, (ours[0][0], ours[1]), (theirs[0][0], theirs[1]))
