"""The language model: its loss by hand, its seams, its options."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import stack_step
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.language_model import LanguageModel, language_model_loss, prefill_fn_of
from jaxgen.ops.clusters import make_clusters

V, B, T = 11, 3, 6
VARIANTS = {
    "one_hot": {},
    "embedded": {"embedding_size": 5, "num_layers": 2},
    "tied": {"embedding_size": 5, "num_layers": 2, "tied": True},
    "residual": {"num_layers": 3, "residual": True},
    "layernorm": {"cell": "layernorm_lstm", "num_layers": 2},
    "labelled": {"num_labels": 4, "num_layers": 2},
    "adaptive": {"clusters": make_clusters(np.arange(V), (3, 6)), "tail_divisor": 2.0},
    "adaptive, tied": {
        **{"clusters": make_clusters(-np.arange(V), (2, 6)), "tail_divisor": 1.0},
        **{"embedding_size": 5, "tied": True},
    },
}


@cache
def made(name, **more):
    model = LanguageModel(V, 8, **VARIANTS[name], **more)

    @jax.jit
    def parameters():
        params = model.init(jax.random.key(0), tokens()[:, :-1])["params"]
        # Biases that differ, so that a test would see one added twice or not at all.
        waves = jax.tree.map(lambda p: jnp.sin(jnp.arange(p.size)).reshape(p.shape), params)
        return jax.tree.map(lambda p, wave: p + 0.1 * wave, params, waves)

    return model, parameters()


def tokens(seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, (B, T + 1)), jnp.int32)


@partial(jax.jit, static_argnums=0)
def read(model, params, tokens, carry):
    return model.apply({"params": params}, tokens, carry)


# Compiled whole, once a model and shape: operation by operation takes many small programs.
loss_of = jax.jit(language_model_loss, static_argnums=0)


STEPPED = [
    (name, size)
    for name, options in VARIANTS.items()
    for size in ((0, 2**20) if "embedding_size" in options else (2**20,))
]


@pytest.mark.parametrize(("name", "largest_table"), STEPPED, ids=str)
def test_stepping_equals_reading_at_once(name, largest_table, monkeypatch):
    """With the embedding folded into a table of pre-activations, and without."""
    monkeypatch.setattr(stack_step, "_LARGEST_TABLE", largest_table)
    model, params = made(name)
    labels = jnp.asarray([0, 3, 1]) if name == "labelled" else None
    start = model.initial_carry(B, labels)
    end, logits = read(model, params, tokens(), start)
    assert {leaf.shape[0] for leaf in jax.tree.leaves((start, end))} == {B}
    step_fn, carry = step_fn_of(model), start
    step, ready = jax.jit(step_fn), jax.jit(step_fn.prepare)(params)
    for t in range(T + 1):
        carry, one = step(ready, carry, tokens()[:, t])
        np.testing.assert_allclose(one, logits[:, t], rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_step_takes_the_parameters_unprepared_too():
    model, params = made("tied")
    step_fn, start = step_fn_of(model), model.initial_carry(B)
    ours = jax.jit(step_fn)(params, start, tokens()[:, 0])
    prepared = jax.jit(step_fn)(step_fn.prepare(params), start, tokens()[:, 0])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, prepared)


@pytest.mark.parametrize("name", ["embedded", pytest.param("layernorm", marks=pytest.mark.slow)])
def test_a_padded_prompt_equals_each_prompt_alone(name):
    model, params = made(name)
    mask = jnp.arange(T + 1) < jnp.asarray([7, 1, 4])[:, None]
    prefill, apply = jax.jit(prefill_fn_of(model)), jax.jit(model.apply)
    carry, logits = prefill(params, model.initial_carry(B), tokens(), mask)
    for row, length in enumerate([7, 1, 4]):
        alone = tokens()[row : row + 1, :length]
        end, expected = apply({"params": params}, alone)
        np.testing.assert_allclose(logits[row, :length], expected[0], rtol=1e-5, atol=1e-5)
        for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(end), strict=True):
            np.testing.assert_allclose(a[row], b[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["embedded", "adaptive"])
def test_loss_is_the_mean_nll_of_every_target(name):
    model, params = made(name)
    batch = {"tokens": tokens()}
    loss, aux = loss_of(model, params, model.initial_carry(B), batch)
    nll_sum, count = aux.sums["nll"]
    logits = read(model, params, tokens()[:, :-1], model.initial_carry(B))[1]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    expected = -sum(log_p[b, t, tokens()[b, t + 1]] for b in range(B) for t in range(T))
    np.testing.assert_allclose(nll_sum, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, expected / (B * T), rtol=1e-5)
    assert count == B * T


@pytest.mark.parametrize("name", ["embedded", "adaptive, tied"])
def test_padding_never_dilutes_the_mean(name):
    model, params = made(name)
    mask = jnp.arange(T) < jnp.asarray([6, 2, 0])[:, None]
    batch = {"tokens": tokens(), "mask": mask}
    _, aux = loss_of(model, params, model.initial_carry(B), batch)
    nll_sum, count = aux.sums["nll"]
    parts = [
        loss_of(
            model, params, model.initial_carry(1), {"tokens": tokens()[row : row + 1, : n + 1]}
        )[1]
        for row, n in ((0, 6), (1, 2))
    ]
    np.testing.assert_allclose(nll_sum, sum(part.sums["nll"].total for part in parts), rtol=1e-5)
    assert count == 8


def test_two_windows_through_the_carry_score_as_one():
    model, params = made("embedded")
    start, all_tokens = model.initial_carry(B), tokens()
    whole = loss_of(model, params, start, {"tokens": all_tokens})[1]
    first = loss_of(model, params, start, {"tokens": all_tokens[:, :4]})[1]
    second = loss_of(model, params, first.carry, {"tokens": all_tokens[:, 3:]})[1]
    parts = first.sums["nll"].total + second.sums["nll"].total
    np.testing.assert_allclose(parts, whole.sums["nll"].total, rtol=1e-5)


def test_resets_in_a_batch_start_documents_afresh():
    model, params = made("embedded")
    resets = jnp.zeros((B, T), bool).at[:, 2].set(True)
    batch = {"tokens": tokens(), "resets": resets}
    split = loss_of(model, params, model.initial_carry(B), batch)[1].sums["nll"].total
    pieces = [tokens()[:, :3], tokens()[:, 2:]]
    expected = sum(
        loss_of(model, params, model.initial_carry(B), {"tokens": piece})[1].sums["nll"].total
        for piece in pieces
    )
    np.testing.assert_allclose(split, expected, rtol=1e-5)


def test_penalties_by_hand(monkeypatch):
    """The activation penalty is on the dropped-out outputs, the temporal one on the others."""
    monkeypatch.setattr("jaxgen.models.language_model.drop", lambda x, *_: 2 * x)
    model, params = made("one_hot", dropout=0.5)
    start, batch, key = model.initial_carry(B), {"tokens": tokens()}, jax.random.key(0)
    plain = language_model_loss(model, params, start, batch, key)[0]
    penalised = language_model_loss(
        model, params, start, batch, key, activation_penalty=2.0, temporal_penalty=3.0
    )[0]
    _, hidden = model.apply(
        {"params": params}, tokens()[:, :-1].T, start, method=LanguageModel.hidden_states
    )
    hidden = np.asarray(hidden)
    expected = 2.0 * (4 * hidden**2).mean() + 3.0 * (np.diff(hidden, axis=0) ** 2).mean()
    np.testing.assert_allclose(penalised - plain, expected, rtol=1e-4)


def test_what_each_dropout_drops_and_shares(monkeypatch):
    """Words of the table; units, one draw a sequence or a step; weights of the recurrence."""
    dropped = []

    def record(x, key, rate, axes=()):
        dropped.append((rate, x.shape, axes))
        return x

    monkeypatch.setattr("jaxgen.nn.lstm.drop", record)
    monkeypatch.setattr("jaxgen.models.language_model.drop", record)
    model, params = made("embedded")
    rates = {"embedding_dropout": 0.1, "input_dropout": 0.2, "weight_drop": 0.3}
    for variational, axes in ((True, (0,)), (False, ())):
        options = {**rates, "layer_dropout": 0.4, "dropout": 0.5, "variational": variational}
        loss = partial(language_model_loss, model.clone(**options))
        start, batch = model.initial_carry(B), {"tokens": tokens()}
        dropped.clear()
        jax.eval_shape(loss, params, start, batch, jax.random.key(0))
        assert dropped == [
            (0.1, (V, 5), (1,)),
            (0.2, (T, B, 5), axes),
            (0.3, (8, 32), ()),
            (0.4, (T, B, 8), axes),
            (0.3, (8, 32), ()),
            (0.5, (T, B, 8), axes),
        ]


def test_every_dropout_acts_only_with_a_key():
    model, params = made("embedded")
    start, batch, key = model.initial_carry(B), {"tokens": tokens()}, jax.random.key(0)
    plain = loss_of(model, params, start, batch)[0]
    rates = ("dropout", "layer_dropout", "input_dropout", "embedding_dropout", "weight_drop")
    for rate in rates:
        dropping = model.clone(**{rate: 0.5})
        dropped = loss_of(dropping, params, start, batch, key)[0]
        assert plain != dropped, rate
        assert dropped == loss_of(dropping, params, start, batch, key)[0], rate
        still = jax.make_jaxpr(partial(language_model_loss, dropping))(params, start, batch)
        assert "random" not in str(still), rate


def test_a_label_steers_and_rides_in_the_carry():
    model, params = made("labelled")
    carry, a = read(model, params, tokens(), model.initial_carry(B, jnp.full(B, 1)))
    _, b = read(model, params, tokens(), model.initial_carry(B, jnp.full(B, 2)))
    assert not np.allclose(a, b)
    np.testing.assert_array_equal(carry.labels, jnp.full(B, 1))


def contracted_axes(jaxpr):
    """How many axes each matmul of a program contracts, those inside loops included."""
    counts = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            counts.append(len(equation.params["dimension_numbers"][0][0]))
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            counts += contracted_axes(inner) if hasattr(inner, "eqns") else []
    return counts


@pytest.mark.parametrize("name", ["one_hot", "tied", "layernorm"])
def test_no_matmul_of_training_contracts_two_axes(name):
    """Time and batch are one axis: XLA on a CPU would make transposed copies of both operands."""
    more = {"input_dropout": 0.5} if name == "tied" else {}
    model, params = made(name, **more)

    def gradients(params, tokens, key):
        loss = lambda p: language_model_loss(  # noqa: E731
            model, p, model.initial_carry(B), {"tokens": tokens}, key
        )
        scores = lambda p: model.apply({"params": p}, tokens)[1].sum()  # noqa: E731
        return jax.grad(loss, has_aux=True)(params), jax.grad(scores)(params)

    counts = contracted_axes(jax.make_jaxpr(gradients)(params, tokens(), jax.random.key(0)).jaxpr)
    assert len(counts) > 6
    assert set(counts) == {1}


@pytest.mark.slow
def test_bfloat16_compute_keeps_float32_parameters_and_logits():
    model, params = made("tied", dtype=jnp.bfloat16)
    loss = lambda p: language_model_loss(model, p, model.initial_carry(B), {"tokens": tokens()})  # noqa: E731
    (value, _), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    wide, _ = made("tied")
    expected = loss_of(wide, params, wide.initial_carry(B), {"tokens": tokens()})[0]
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(value, expected, rtol=0.02)
