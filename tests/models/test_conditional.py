"""The conditioned language model against single steps, and against joined inputs worked by hand."""

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.ragged import LabelledBatch
from jaxgen.models.conditional import conditional_loss
from jaxgen.models.decoding import initial_carry_of, step_fn_of
from jaxgen.models.language_model import LanguageModel

V, LABELS = 7, 3  # the last label is the null label
CONDITIONS = ("input", "carry", "film")


def made(condition: str, **settings: Any) -> tuple[LanguageModel, Any]:
    model = LanguageModel(
        vocab_size=V,
        **{"hidden_size": 5, "num_layers": 2, "embedding_size": 4, **settings},
        num_labels=LABELS,
        condition=condition,
    )
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    name = next(name for name in params if name.startswith("label_"))
    table = jax.random.normal(jax.random.key(1), params[name].shape)
    return model, params | {name: table}


def batch_of(rows: list[list[int]], labels: list[int], length: int) -> LabelledBatch:
    tokens = np.zeros((len(rows), length), np.int32)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    lengths = np.array([len(row) for row in rows], np.int32)
    arrays = (tokens, lengths, np.array(labels, np.int32), np.float32(lengths > 0))
    return LabelledBatch(*map(jnp.asarray, arrays))


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param({"cell": "layernorm_lstm", "num_layers": 1}, marks=pytest.mark.slow)],
)
def test_the_loss_is_that_of_single_steps(condition: str, settings: dict[str, Any]) -> None:
    model, params = made(condition, **settings)
    rows, labels = [[1, 2, 3, 4, 5], [6, 0], [2, 2, 6]], [0, 2, 1]
    first, step_fn, total = initial_carry_of(model), jax.jit(step_fn_of(model)), 0.0
    for row, label in zip(rows, labels, strict=True):
        carry = first(params, 1, jnp.array([label]))
        for token, target in pairwise(row):
            carry, logits = step_fn(params, carry, jnp.array([token]))
            total -= float(jax.nn.log_softmax(logits)[0, target])
    filled = batch_of([*rows, []], [*labels, 0], 9)  # padding, and a row that only fills the batch
    loss, aux = jax.jit(partial(conditional_loss, model))(params, (), filled)
    assert aux.weight == aux.sums["nll"].weight == 4 + 1 + 2
    np.testing.assert_allclose(aux.sums["nll"].total, total, rtol=1e-5)
    np.testing.assert_allclose(loss, total / 7, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
def test_padding_and_other_labels_have_no_gradient(condition: str) -> None:
    model, params = made(condition)
    rows = [[1, 2, 3], [4, 5]]

    def grads(length: int) -> Any:
        batch = batch_of(rows, [1, 1], length)
        return jax.grad(lambda params: conditional_loss(model, params, (), batch)[0])(params)

    exact, padded = grads(3), grads(8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), exact, padded)
    table = next(value for name, value in exact.items() if name.startswith("label_"))
    assert np.any(table[1] != 0)
    np.testing.assert_array_equal(table[np.array([0, 2])], 0)


def test_a_label_at_the_input_is_its_embedding_joined_to_every_input() -> None:
    model, params = made("input", num_layers=1)
    embedded = jax.random.normal(jax.random.key(2), (LABELS, 3))
    kernel = jax.random.normal(jax.random.key(3), (3, 20))
    gates = {"label_gates": embedded @ kernel}
    tokens, label = jnp.array([[1, 4, 2, 6]]), 1
    carry = initial_carry_of(model)(params, 1, jnp.array([label]))
    found: Any = model.apply({"params": params | gates}, tokens, carry)[1]

    plain = LanguageModel(vocab_size=V, hidden_size=5, embedding_size=7)
    layer = params["lstm"]["layer_0"]
    joined = layer | {"input_kernel": jnp.concatenate([layer["input_kernel"], kernel])}
    table = jnp.concatenate([params["embedding"], jnp.tile(embedded[label], (V, 1))], axis=1)
    other = {name: params[name] for name in ("output_kernel", "output_bias")}
    other |= {"embedding": table, "lstm": {"layer_0": joined}}
    expected: Any = plain.apply({"params": other}, tokens)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_no_label_is_the_null_label(condition: str) -> None:
    model, params = made(condition)
    first, tokens = initial_carry_of(model), jnp.array([[3, 1]])
    outputs: list[Any] = [
        model.apply({"params": params}, tokens, first(params, 1, label))[1]
        for label in (None, jnp.array([LABELS - 1]), jnp.array([0]))
    ]
    outputs.append(model.apply({"params": params}, tokens)[1])
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[3])
    assert np.abs(outputs[0] - outputs[2]).max() > 1e-3
