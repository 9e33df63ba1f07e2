"""Models of a few lines that the generation tests sample from."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


def lstm_params(key, vocab_size=11, hidden_size=8, scale=1.5):
    keys = jax.random.split(key, 3)
    return {
        "embedding": scale * jax.random.normal(keys[0], (vocab_size, 4 * hidden_size)),
        "recurrent": scale * jax.random.normal(keys[1], (hidden_size, 4 * hidden_size)),
        "output": scale * jax.random.normal(keys[2], (hidden_size, vocab_size)),
    }


def lstm_step(params, carry, tokens):
    c, h = carry
    # Sums row by row, so that a row gives the same bits in a batch of any size.
    gates = params["embedding"][tokens] + (h[:, :, None] * params["recurrent"]).sum(1)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), (h[:, :, None] * params["output"]).sum(1)


def lstm_carry(batch_size, hidden_size=8):
    return (jnp.zeros((batch_size, hidden_size)), jnp.zeros((batch_size, hidden_size)))


def lstm_prefill(params, carry, tokens, mask):
    def step(carry, now):
        token, real = now
        after, logits = lstm_step(params, carry, token)
        after = jax.tree.map(lambda new, old: jnp.where(real[:, None], new, old), after, carry)
        return after, logits

    carry, logits = jax.lax.scan(step, carry, (tokens.T, mask.T))
    return carry, logits.swapaxes(0, 1)


def markov_step(table, carry, tokens):
    """The next token's logits are a row of the table; the carry counts the tokens read."""
    return carry + 1, table[tokens]


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@dataclass(frozen=True)
class AttentiveStep:
    """`lstm_step` that attends to a source [B, S, H]: carry (lstm, source, mask, last weights)."""

    def __call__(self, params, carry, tokens):
        lstm, source, mask, _ = carry
        lstm, logits = lstm_step(params, lstm, tokens)
        scores = jnp.where(mask, (source * lstm[1][:, None]).sum(-1), -jnp.inf)
        weights = jax.nn.softmax(scores)
        context = (weights[..., None] * source).sum(1)
        logits += (context[:, :, None] * params["output"]).sum(1)
        return (lstm, source, mask, weights), logits

    def attention(self, params, carry):
        return carry[3], carry[2]


def attentive_carry(source, lengths):
    source = jnp.asarray(source, jnp.float32)
    mask = jnp.arange(source.shape[1]) < jnp.asarray(lengths)[:, None]
    return lstm_carry(len(source), source.shape[2]), source, mask, jnp.zeros(source.shape[:2])
