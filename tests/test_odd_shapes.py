"""Loss, gradients, sampler and beam of odd shapes, compiled, against one NumPy model in float64.

A compiler may be wrong at some shapes only, as jaxlib 0.9.1 to 0.10.2 are on a CPU (`jaxgen info
--environment`). Everything runs under `vmap` over seeds: the output layer, which is where the
vocabulary is, at every shape, and whole models at some that have each size once.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from jaxgen import SamplingParams, beam_search, generate
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.language_model import LanguageModel, language_model_loss
from jaxgen.ops import output_loss as blocks
from jaxgen.ops.output_loss import output_loss

SEEDS, STEPS, BEAMS = 2, 2, 3
VOCABULARIES, SIZES, BATCHES = (32_769, 33_278, 40_001), (3, 8, 64), (1, 2, 3, 16)
WHOLE = [(32_769, 3, 2), (33_278, 8, 1), (40_001, 64, 16)]


class Weights(NamedTuple):
    """Of one run, float64; the embedding is the output kernel too."""

    embedding: np.ndarray
    input_kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray
    output_bias: np.ndarray


def step(w: Weights, c: np.ndarray, h: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, ...]:
    """The new c and h, log-probabilities, and the activations i, f, g, o."""
    z = w.embedding[tokens] @ w.input_kernel + h @ w.recurrent_kernel + w.bias
    i, f, g, o = np.split(z, 4, axis=-1)
    gates = expit(i), expit(f), np.tanh(g), expit(o)
    c = gates[1] * c + gates[0] * gates[2]
    h = gates[3] * np.tanh(c)
    return c, h, log_softmax(h @ w.embedding.T + w.output_bias, axis=-1), gates


def loss_and_gradients(w: Weights, tokens: np.ndarray) -> tuple[float, Weights]:
    """Of the mean nll of one step from a zero carry, by hand."""
    inputs, targets = tokens[:, 0], tokens[:, 1]
    zero = np.zeros((len(tokens), w.embedding.shape[1]))
    c, h, log_p, (i, _, g, o) = step(w, zero, zero, inputs)
    rows = np.arange(len(tokens))
    d_logits = np.exp(log_p)
    d_logits[rows, targets] -= 1
    d_logits /= len(tokens)
    d_h = d_logits @ w.embedding
    d_c = d_h * o * (1 - np.tanh(c) ** 2)
    d_z = [d_c * g * i * (1 - i), zero, d_c * i * (1 - g**2), d_h * np.tanh(c) * o * (1 - o)]
    d_z = np.concatenate(d_z, axis=1)
    d_embedding = d_logits.T @ h
    np.add.at(d_embedding, inputs, d_z @ w.input_kernel.T)
    gradients = (d_embedding, w.embedding[inputs].T @ d_z, 0 * w.recurrent_kernel, d_z.sum(0))
    return -log_p[rows, targets].mean(), Weights(*gradients, d_logits.sum(0))


def beams_by_hand(w: Weights, token: int) -> tuple[np.ndarray, np.ndarray]:
    """The texts that a beam finds after one token, best first, and their log-probabilities."""
    zero = np.zeros((1, w.embedding.shape[1]))
    texts = [(0.0, (token,), zero, zero)]
    for _ in range(STEPS):
        found = []
        for score, text, c, h in texts:
            c, h, log_p, _ = step(w, c, h, np.array([text[-1]]))
            best = np.argpartition(-log_p[0], BEAMS)[:BEAMS]
            found += [(score + log_p[0, t], (*text, int(t)), c, h) for t in best]
        texts = sorted(found, key=lambda one: -one[0])[:BEAMS]
    return np.array([text[1:] for _, text, *_ in texts]), np.array([one[0] for one in texts])


@cache
def model_of(vocab: int, size: int) -> LanguageModel:
    return LanguageModel(vocab, size, embedding_size=size, tied=True)


@cache
def runs_of(vocab: int, size: int) -> tuple[dict, list[Weights]]:
    """Parameters of all seeds, stacked, and as NumPy's."""
    r = np.random.default_rng(size)
    shapes = (vocab, size), (size, 4 * size), (size, 4 * size), (4 * size,), (vocab,)
    stacked = Weights(*(r.normal(size=(SEEDS, *s)).astype(np.float32) for s in shapes))
    cell = stacked.input_kernel, stacked.recurrent_kernel, stacked.bias
    names = ("input_kernel", "recurrent_kernel", "bias")
    params = {
        "embedding": stacked.embedding,
        "lstm": {"layer_0": dict(zip(names, cell, strict=True))},
        "output_bias": stacked.output_bias,
    }
    wide = [Weights(*(x[seed].astype(np.float64) for x in stacked)) for seed in range(SEEDS)]
    return jax.tree.map(jnp.asarray, params), wide


def tokens_of(vocab: int, batch: int) -> np.ndarray:
    """Two tokens a row, the last of the vocabulary among them."""
    tokens = np.random.default_rng(batch).integers(0, vocab, (batch, 2)).astype(np.int32)
    tokens[-1, 1] = vocab - 1
    return tokens


def check_output_layer(vocab: int, size: int, batch: int) -> None:
    """Two rows a block, so that the last may have to be filled, and what it reads."""
    params, weights = runs_of(vocab, size)
    hidden = np.random.default_rng(batch).normal(size=(SEEDS, batch, size)).astype(np.float32)
    targets = tokens_of(vocab, batch)[:, 1]

    def one(hidden: jax.Array, embedding: jax.Array, bias: jax.Array) -> jax.Array:
        ones = jnp.ones(batch)
        return output_loss(hidden, embedding.T, bias, jnp.asarray(targets), ones, block_rows=2)[0]

    run = jax.jit(jax.vmap(jax.value_and_grad(one, argnums=(0, 1, 2))))
    totals, grads = run(jnp.asarray(hidden), params["embedding"], params["output_bias"])
    for seed, w in enumerate(weights):
        wide = hidden[seed].astype(np.float64)
        log_p = log_softmax(wide @ w.embedding.T + w.output_bias, axis=-1)
        np.testing.assert_allclose(totals[seed], -log_p[range(batch), targets].sum(), rtol=1e-5)
        d_logits = np.exp(log_p)
        d_logits[range(batch), targets] -= 1
        expected = d_logits @ w.embedding, d_logits.T @ wide, d_logits.sum(0)
        for ours, theirs in zip(grads, expected, strict=True):
            np.testing.assert_allclose(ours[seed], theirs, rtol=1e-3, atol=1e-5)


def check_loss(vocab: int, size: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole model, two rows a block."""
    monkeypatch.setattr(blocks, "BLOCK_LOGITS", 2 * vocab)
    model, (params, weights) = model_of(vocab, size), runs_of(vocab, size)
    tokens = tokens_of(vocab, batch)

    def one(params: dict) -> tuple:
        carry, window = model.initial_carry(batch), {"tokens": jnp.asarray(tokens)}
        return language_model_loss(model, params, carry, window)

    (loss, _), grads = jax.jit(jax.vmap(jax.value_and_grad(one, has_aux=True)))(params)
    layer = grads["lstm"]["layer_0"]
    ours = Weights(grads["embedding"], output_bias=grads["output_bias"], **layer)
    for seed, w in enumerate(weights):
        expected, theirs = loss_and_gradients(w, tokens)
        np.testing.assert_allclose(loss[seed], expected, rtol=1e-4)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a[seed], b, rtol=1e-3, atol=1e-5)


def check_texts(vocab: int, size: int, batch: int) -> None:
    """Every row's tokens are among those that its settings leave; log-probabilities; beams."""
    (params, weights), step_fn = runs_of(vocab, size), step_fn_of(model_of(vocab, size))
    prompts = tokens_of(vocab, batch)[:, :1]
    carry = model_of(vocab, size).initial_carry(batch)
    temperature = np.float32(np.arange(batch) % 2)
    run = partial(generate, max_new_tokens=STEPS)

    def one(params: dict, key: jax.Array) -> tuple:
        common = step_fn, params, carry, jnp.asarray(prompts), None
        beams = beam_search(*common, num_beams=BEAMS, max_new_tokens=STEPS)
        plain = run(*common, key, SamplingParams(temperature))
        kept = run(*common, key, SamplingParams(1.0, top_k=40, top_p=0.9))
        return beams, (plain.tokens, plain.logprobs), (kept.tokens, kept.logprobs)

    keys = jax.random.split(jax.random.key(0), SEEDS)
    beams, *texts = jax.jit(jax.vmap(one))(params, keys)
    for seed, w in enumerate(weights):
        for filtered, (tokens, logprobs) in enumerate(texts):
            c = h = np.zeros((batch, size))
            last = prompts[:, 0]
            for place in range(STEPS):
                c, h, log_p, _ = step(w, c, h, last)
                last = np.asarray(tokens[seed, :, place])
                chosen = log_p[np.arange(batch), last]
                np.testing.assert_allclose(logprobs[seed, :, place], chosen, rtol=1e-3, atol=1e-4)
                for row in range(batch):
                    above = log_p[row][log_p[row] > chosen[row] + 1e-4]
                    if filtered:
                        top = np.exp(np.sort(log_p[row])[-40:]).sum()
                        assert len(above) < 40
                        assert np.exp(above).sum() < 0.9 * top + 1e-4
                    elif temperature[row] == 0:
                        assert len(above) == 0
        for row in range(batch):
            expected, scores = beams_by_hand(w, prompts[row, 0])
            np.testing.assert_array_equal(beams.tokens[seed, row], expected)
            np.testing.assert_allclose(beams.logprobs[seed, row], scores, rtol=1e-4, atol=1e-4)


def test_an_odd_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    check_output_layer(32_769, 3, 3)
    check_loss(32_769, 3, 3, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_output_layers(vocab: int, size: int) -> None:
    for batch in BATCHES:
        check_output_layer(vocab, size, batch)


@pytest.mark.slow
@pytest.mark.parametrize(("vocab", "size", "batch"), WHOLE)
def test_whole_models(vocab: int, size: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_loss(vocab, size, batch, monkeypatch)
    check_texts(vocab, size, batch)
