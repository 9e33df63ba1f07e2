"""The encoder-decoder: its loss by hand, padding, gradients, options, bad settings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_seq2seq import (
    V_SOURCE,
    VARIANTS,
    B,
    H,
    S,
    T,
    V,
    batch_of,
    loss_and_gradient,
    made,
    read,
)

from jaxgen.errors import UserError
from jaxgen.models.language_model import LanguageModel
from jaxgen.models.seq2seq import (
    Seq2Seq,
    Seq2SeqCarry,
    language_model_part,
    reversed_rows,
    seq2seq_loss,
)

pytestmark = pytest.mark.slow

ALL = [pytest.param(name, marks=[] if name == "fed" else pytest.mark.slow) for name in VARIANTS]


@pytest.mark.parametrize("name", ALL)
def test_what_stands_beyond_the_lengths_changes_nothing(name):
    model, params = made(name)
    batch, other = batch_of(), batch_of(seed=1)
    padded = batch._replace(
        sources=jnp.where(
            jnp.arange(S) < batch.source_lengths[:, None], batch.sources, other.sources
        ),
        targets=jnp.where(
            jnp.arange(T + 1) < batch.target_lengths[:, None], batch.targets, other.targets
        ),
    )
    ours, theirs = (loss_and_gradient(model, params, x) for x in (batch, padded))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(ours[2]))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_padded_batch_equals_each_row_alone(name):
    model, params = made(name)
    batch = batch_of((5, 2, 2, 2), (7, 4, 4, 4))
    _, aux, gradient = loss_and_gradient(model, params, batch)
    total, expected = jax.tree.map(jnp.zeros_like, (aux.sums["nll"].total, gradient))
    for row, end, n, m in ((0, 1, 5, 7), (1, 4, 2, 4)):  # the second call has no padding either
        alone = jax.tree.map(lambda x: x[row:end], batch)  # noqa: B023
        alone = alone._replace(sources=alone.sources[:, :n], targets=alone.targets[:, :m])
        _, part, of_part = loss_and_gradient(model, params, alone)
        total += part.sums["nll"].total
        expected = jax.tree.map(lambda a, b: a + b * part.weight, expected, of_part)  # noqa: B023
    np.testing.assert_allclose(aux.sums["nll"].total, total, rtol=1e-5)
    check = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(lambda a, b: check(a * aux.weight, b), gradient, expected)


@pytest.mark.parametrize("name", ["fed", pytest.param("additive")])
def test_the_gradient_by_finite_differences(name):
    """Along three directions; float32 leaves about 1e-4 of a quotient."""
    model, params = made(name)
    batch = batch_of()
    gradient = loss_and_gradient(model, params, batch)[2]
    for seed in range(3):
        random, step = np.random.default_rng(seed), 0.02
        direction = jax.tree.map(
            lambda p: jnp.asarray(random.normal(size=p.shape) / 20, jnp.float32),  # noqa: B023
            params,
        )
        sides = [
            loss_and_gradient(
                model,
                jax.tree.map(lambda p, d: p + sign * step * d, params, direction),  # noqa: B023
                batch,
            )[0]
            for sign in (1, -1)
        ]
        products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
        slope = sum(jax.tree.leaves(products))
        np.testing.assert_allclose((sides[0] - sides[1]) / (2 * step), slope, rtol=1e-2, atol=3e-4)


def constant():
    """A model whose probabilities are in proportion 1, 2, ..., V, whatever it reads."""
    model, params = made("none")
    log_p = jnp.log(jnp.arange(1.0, V + 1))
    kernel = jnp.zeros_like(params["output_kernel"])
    return model, {**params, "output_kernel": kernel, "output_bias": log_p}


@jax.jit
def losses(params, batch):
    """The loss with each of some smoothings."""
    model, _ = made("none")
    return [
        seq2seq_loss(model, params, jnp.float32(7), batch, label_smoothing=s) for s in (0.0, 0.3)
    ]


def test_the_loss_by_hand():
    """The last row only fills the batch; the others foretell 2, 1 and 3 tokens."""
    _, params = constant()
    batch = batch_of(target_lengths=(3, 2, 4, 5), weights=(1, 1, 1, 0))
    log_p = np.log(np.arange(1, V + 1) / (V * (V + 1) / 2))
    foretold = np.concatenate([batch.targets[row, 1:n] for row, n in enumerate((3, 2, 4))])
    nll = -log_p[foretold].sum()
    (loss, aux), (smoothed, aux_smoothed) = losses(params, batch)
    np.testing.assert_allclose(loss, nll / 6, rtol=1e-6)
    np.testing.assert_allclose(smoothed, 0.7 * nll / 6 - 0.3 * log_p.mean(), rtol=1e-6)
    for sums in (aux.sums, aux_smoothed.sums):
        np.testing.assert_allclose(sums["nll"].total, nll, rtol=1e-6)
        assert float(sums["token_accuracy"].total) == (foretold == V - 1).sum()
        assert {float(total.weight) for total in sums.values()} == {float(aux.weight)} == {6.0}
    assert aux.carry == 7  # as it came


def test_a_batch_of_fillers_alone_is_no_loss():
    empty = batch_of((0, 0, 0, 0), (0, 0, 0, 0), weights=(0, 0, 0, 0))
    for loss, aux in losses(constant()[1], empty):
        assert loss == aux.weight == aux.sums["nll"].total == 0


def test_token_accuracy_counts_what_argmax_finds():
    model, params = made("fed")
    batch = batch_of()
    logits = read(model, params, batch)
    for targets in (batch.targets, jnp.pad(logits.argmax(-1).astype(jnp.int32), ((0, 0), (1, 0)))):
        # The logits that the second targets are read with are others than those they are made of.
        of_targets = batch._replace(targets=targets)
        aux = loss_and_gradient(model, params, of_targets)[1]
        right = read(model, params, of_targets).argmax(-1) == targets[:, 1:]
        expected = (right & (jnp.arange(T) < batch.target_lengths[:, None] - 1)).sum()
        assert float(aux.sums["token_accuracy"].total) == int(expected)
    assert int(expected) > 0


def test_rows_from_their_ends():
    rows = reversed_rows(jnp.asarray([[1, 2, 3, 0], [4, 5, 6, 7]]), jnp.asarray([3, 1], jnp.int32))
    np.testing.assert_array_equal(rows, [[3, 2, 1, 0], [4, 5, 6, 7]])


def test_a_reversed_source_is_what_the_encoder_reads():
    forward, params = made("none")
    backward, _ = made("none", reverse_source=True)
    batch = batch_of()
    turned = batch._replace(sources=reversed_rows(batch.sources, batch.source_lengths))
    ours, theirs = read(backward, params, batch), read(forward, params, turned)
    np.testing.assert_array_equal(ours, theirs)
    assert not np.allclose(ours, read(forward, params, batch))


def test_a_shared_embedding_reads_both_sides():
    model = Seq2Seq(V, V, H, embedding_size=3, shared_embedding=True, attention="none")
    apart, params = made("none", embedding_size=3, bidirectional=True)
    apart = apart.clone(source_vocab_size=V)
    table = jnp.concatenate([params["source_embedding"], jnp.ones((V - V_SOURCE, 3))])
    shared = {name: x for name, x in params.items() if name != "source_embedding"}
    batch = batch_of()
    ours = read(model, {**shared, "embedding": table}, batch)
    theirs = read(apart, {**shared, "embedding": table, "source_embedding": table}, batch)
    np.testing.assert_array_equal(ours, theirs)


def test_what_each_dropout_drops_and_shares(monkeypatch):
    """Words of both tables; units, one draw a sequence or a step; weights of the recurrence."""
    dropped = []

    def record(x, key, rate, axes=()):
        dropped.append((rate, x.shape, axes))
        return x

    for name in ("nn.lstm", "models.seq2seq", "models.input_feeding"):
        monkeypatch.setattr(f"jaxgen.{name}.drop", record)
    rates = {"embedding_dropout": 0.1, "input_dropout": 0.2, "weight_drop": 0.3}
    rates |= {"layer_dropout": 0.4, "dropout": 0.5}
    for feeding in (False, True):
        model, params = made("fed", input_feeding=feeding)
        for variational in (True, False):
            axes = (0,) if variational else ()
            loss = partial(seq2seq_loss, model.clone(**rates, variational=variational))
            dropped.clear()
            jax.eval_shape(loss, params, (), batch_of(), jax.random.key(0))
            weights = [(0.3, (H, 4 * H), ())] * 2
            between = [(0.4, (T, B, H), axes)]
            if feeding:
                between = [(0.4, (B, H) if variational else (T, B, H), ())]
            assert dropped[:2] == [(0.1, (V_SOURCE, 3), (1,)), (0.2, (S, B, 3), axes)]
            assert dropped[2:7] == [weights[0]] * 2 + [(0.4, (S, B, 2 * H), axes)] + weights
            assert dropped[7:9] == [(0.1, (V, 3), (1,)), (0.2, (T, B, 3), axes)]
            assert sorted(dropped[9:12]) == sorted(weights + between)
            assert dropped[12:] == [(0.5, (B, T, H), (1,) if variational else ())]


@pytest.mark.parametrize("name", ["fed", pytest.param("additive")])
def test_every_dropout_acts_only_with_a_key(name):
    model, params = made(name)
    rates = ("dropout", "layer_dropout", "input_dropout", "embedding_dropout", "weight_drop")
    for rate in rates:
        loss = partial(seq2seq_loss, model.clone(**{rate: 0.5}), params, (), batch_of())
        drawn = str(jax.make_jaxpr(loss)(jax.random.key(0)))
        assert "random_bits" in drawn or "threefry" in drawn, rate
        assert "random" not in str(jax.make_jaxpr(loss)()), rate


@pytest.mark.parametrize("variational", [True, False])
def test_dropout_between_fed_layers_is_that_of_layers_run_at_once(variational, monkeypatch):
    """With a draw that depends on the unit alone; feeding is switched off by a zero kernel."""

    def drop(x, key, rate, axes=()):
        return x * jnp.where(jnp.arange(x.shape[-1]) % 2 == 0, 2.0, 0.0) if rate == 0.4 else x

    for name in ("nn.lstm", "models.seq2seq", "models.input_feeding"):
        monkeypatch.setattr(f"jaxgen.{name}.drop", drop)
    options = {"layer_dropout": 0.4, "variational": variational}
    fed, params = made("fed", **options)
    plain, _ = made("fed", **options, input_feeding=False)
    decoder = dict(params["decoder"])
    decoder["feed_kernel"] = jnp.zeros_like(decoder["feed_kernel"])
    ours = seq2seq_loss(fed, {**params, "decoder": decoder}, (), batch_of(), jax.random.key(0))
    del decoder["feed_kernel"]
    theirs = seq2seq_loss(plain, {**params, "decoder": decoder}, (), batch_of(), jax.random.key(0))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)


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


@pytest.mark.parametrize("name", ["additive", "fed"])
def test_no_matmul_of_training_contracts_two_axes(name):
    """Time and batch are one axis: XLA on a CPU would make transposed copies of both operands."""
    model, params = made(name)
    loss = lambda params: seq2seq_loss(model, params, (), batch_of())  # noqa: E731
    counts = contracted_axes(jax.make_jaxpr(jax.grad(loss, has_aux=True))(params).jaxpr)
    assert len(counts) > 20
    assert set(counts) == {1}


@pytest.mark.parametrize("name", ["general", "fed"])
def test_bfloat16_compute_keeps_float32_parameters_and_logits(name):
    narrow, params = made(name, dtype=jnp.bfloat16)
    loss, _, gradient = loss_and_gradient(narrow, params, batch_of())
    expected = loss_and_gradient(*made(name), batch_of())[0]
    assert {leaf.dtype for leaf in jax.tree.leaves((params, gradient))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(loss, expected, rtol=0.03)


def language_model(**options):
    model = LanguageModel(V, H, **options)
    tokens = batch_of().targets
    return model, jax.jit(model.init)(jax.random.key(5), tokens)["params"], tokens


def fresh(model):
    arguments = (model.init, jax.random.key(0), *batch_of()[:3])
    return jax.eval_shape(*arguments)["params"]


def test_a_language_model_begins_an_encoder():
    """The decoder then starts where the language model ends."""
    theirs, params, tokens = language_model(embedding_size=3)
    model = Seq2Seq(V, V, H, embedding_size=3, bidirectional=False, attention="none")
    part = language_model_part(params, "encoder")
    assert part.items() <= {**fresh(model), **part}.items()
    shapes = fresh(model)
    assert jax.tree.map(jnp.shape, part) == {n: jax.tree.map(jnp.shape, shapes[n]) for n in part}
    rest = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
    lengths = jnp.asarray([7, 3, 4, 1], jnp.int32)
    read_all = jax.jit(partial(model.apply, method=Seq2Seq.encode))
    carry = read_all({"params": {**rest, **part}}, tokens, lengths)
    mask = jnp.arange(T + 1) < lengths[:, None]
    end, _ = jax.jit(theirs.apply)({"params": params}, tokens, mask=mask)
    check = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(check, carry.layers, end.layers)


@pytest.mark.parametrize("tied", [False, pytest.param(True)])
def test_a_language_model_begins_a_decoder(tied):
    """Without attention and from its own first carry it says what the language model says."""
    theirs, params, tokens = language_model(embedding_size=3, tied=tied, num_layers=2)
    model = Seq2Seq(V, V, H, 2, 3, tied=tied, attention="none", shared_embedding=True)
    part = language_model_part(params, "decoder")
    rest = jax.tree.map(lambda x: jnp.ones(x.shape), fresh(model))
    assert set(rest) - set(part) == {"encoder", "bridge"}

    def run(model):
        carry = Seq2SeqCarry(theirs.initial_carry(B).layers, None, None)
        return model.logits(model.decode(tokens, carry)[1])

    ours = jax.jit(partial(model.apply, method=run))({"params": {**rest, **part}})
    expected = jax.jit(theirs.apply)({"params": params}, tokens)[1]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_shared_embedding_comes_from_either_side():
    params = {"embedding": 0, "lstm": 1, "output_kernel": 2, "output_bias": 3}
    assert language_model_part(params, "encoder") == {"encoder": 1, "source_embedding": 0}
    shared = language_model_part(params, "encoder", shared_embedding=True)
    assert shared == {"encoder": 1, "embedding": 0}
    one_hot = {name: x for name, x in params.items() if name != "embedding"}
    assert language_model_part(one_hot, "encoder") == {"encoder": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "luong"}, "`attention` must be none or one of additive, .* got 'luong'"),
        ({"attention": "dot"}, "encoder gives 8 numbers a step where the decoder has 4"),
        ({"attention": "none", "input_feeding": True}, "`input_feeding` feeds .* is none"),
        ({"tied": True}, "`tied` needs an embedding, and `embedding_size` is 0"),
        (
            {"attention": "none", "tied": True, "embedding_size": 3, "decoder_last_size": 4},
            "`decoder_last_size` must be 0 or `embedding_size`, 3, .* got 4",
        ),
        ({"shared_embedding": True}, "`shared_embedding` needs an embedding"),
        (
            {"shared_embedding": True, "embedding_size": 3},
            "needs one vocabulary for both sides, got 9 and 11 tokens",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        fresh(Seq2Seq(V_SOURCE, V, H, **options))
