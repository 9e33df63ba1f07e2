"""Discriminators against PyTorch, and what padding, soft rows and labels may change."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gan import randomised, shapes_of

from jaxgen.models.text_discriminator import (
    SEQGAN_FILTERS,
    SEQGAN_WIDTHS,
    CNNDiscriminator,
    LSTMDiscriminator,
    score_weights,
)

V, B, T = 6, 3, 5
NAMES = (
    "steps",
    "cnn",
    *[pytest.param(x, marks=pytest.mark.slow) for x in ("layer_norm", "pooled")],
)
MODELS: dict[str, Any] = {
    "steps": LSTMDiscriminator(V, 3, 4, num_layers=2, num_labels=2),
    "layer_norm": LSTMDiscriminator(V, 3, 4, cell="layernorm_lstm", num_labels=2),
    "pooled": LSTMDiscriminator(V, 3, 4, pooling=("last", "mean"), num_labels=2),
    "cnn": CNNDiscriminator(V, 3, (1, 2, 4), (4, 3, 2), num_labels=2),
}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)
LENGTHS = jnp.array([5, 3, 1], jnp.int32)
LABELS = jnp.array([0, 1, 1], jnp.int32)


def params_of(model: Any) -> Any:
    return randomised(shapes_of(model, TOKENS, LENGTHS), 0)


def scores(model: Any, *inputs: Any) -> Any:
    return jax.jit(model.apply)({"params": params_of(model)}, *inputs)


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_beyond_a_text_changes_nothing(name: str) -> None:
    model = MODELS[name]
    found = scores(model, TOKENS, LENGTHS, LABELS)
    weights = score_weights(model, T, LENGTHS, jnp.ones(B))
    assert found.shape == weights.shape == (B, T if model.per_step else 1)
    longer = jnp.concatenate([TOKENS, jnp.zeros((B, 4), jnp.int32)], axis=1)
    longer = jnp.where(jnp.arange(T + 4) < LENGTHS[:, None], longer, 5)
    again = scores(model, longer, LENGTHS, LABELS)[:, : found.shape[1]]
    np.testing.assert_allclose(found * weights, again * weights, rtol=1e-5, atol=1e-6)
    for row in range(B):  # alone, and without padding
        length = int(LENGTHS[row])
        alone = scores(
            model, TOKENS[row : row + 1, :length], LENGTHS[row : row + 1], LABELS[row : row + 1]
        )
        count = length if model.per_step else 1
        np.testing.assert_allclose(alone[0], found[row, :count], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_hot_rows_are_tokens_and_pass_a_gradient(name: str) -> None:
    model, params = MODELS[name], params_of(MODELS[name])
    rows = jax.nn.one_hot(TOKENS, V)
    total = jax.jit(
        jax.value_and_grad(lambda rows: model.apply({"params": params}, rows, LENGTHS).sum())
    )
    value, gradient = total(rows)
    np.testing.assert_allclose(value, scores(model, TOKENS, LENGTHS).sum(), rtol=1e-5)
    assert np.abs(gradient[0]).min() > 0 or name == "cnn"
    if not model.per_step:
        np.testing.assert_array_equal(gradient[2, 1:], 0)  # beyond its length


@pytest.mark.parametrize("name", NAMES)
def test_a_label_adds_a_product_with_the_features(name: str) -> None:
    """The features are what the score's own kernel takes; so its kernel moves by the label's."""
    model, params = MODELS[name], params_of(MODELS[name])
    found = scores(model, TOKENS, LENGTHS, LABELS)
    unlabelled = jax.jit(model.apply)
    for row in range(B):
        own = dict(params["scores"])
        own["kernel"] = own["kernel"] + own["label_kernel"][LABELS[row]]
        one = unlabelled({"params": params | {"scores": own}}, TOKENS, LENGTHS)
        np.testing.assert_allclose(found[row], one[row], rtol=1e-4, atol=1e-5)


def test_weights_of_scores_leave_out_padding_and_rows_that_only_fill() -> None:
    lengths, weights = jnp.array([2, 0, 1]), jnp.array([1.0, 0.0, 1.0])
    found = score_weights(MODELS["steps"], 3, lengths, weights)
    assert found.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert score_weights(MODELS["cnn"], 3, lengths, weights).tolist() == [[1], [0], [1]]


def test_seqgan_has_1720_filters() -> None:
    assert len(SEQGAN_WIDTHS) == len(SEQGAN_FILTERS)
    assert sum(SEQGAN_FILTERS) == 1720


@pytest.mark.peers("torch")
def test_the_cnn_is_that_of_torch() -> None:
    import torch
    from torch.nn import functional as F  # noqa: N812

    model = CNNDiscriminator(V, 3, (1, 2, 4, 7), (4, 3, 2, 2))
    params = jax.tree.map(np.array, params_of(model))
    tensor = torch.from_numpy
    x = F.embedding(tensor(np.array(TOKENS)).long(), tensor(params["embedding"])).mT
    x = F.pad(x, (0, 2))  # to the widest filter
    pooled = []
    for width, count in zip(model.widths, model.filters, strict=True):
        kernel = params[f"kernel_{width}"].reshape(width, 3, count).transpose(2, 1, 0).copy()
        inside = x if width > T else x[..., :T]
        found = F.relu(F.conv1d(inside, tensor(kernel), tensor(params[f"bias_{width}"])))
        pooled.append(found.max(dim=-1).values)
    features = torch.cat(pooled, dim=-1)
    kernels = tensor(params["highway_kernel"]).chunk(2, dim=1)
    biases = tensor(params["highway_bias"]).chunk(2)
    new, gate = (features @ k + b for k, b in zip(kernels, biases, strict=True))
    gate = torch.sigmoid(gate)
    features = gate * F.relu(new) + (1 - gate) * features
    own = params["scores"]
    expected = features @ tensor(own["kernel"]) + float(own["bias"])
    found = scores(model, TOKENS, jnp.full((B,), T, jnp.int32))
    np.testing.assert_allclose(found[:, 0], expected.numpy(), rtol=1e-5, atol=1e-6)
