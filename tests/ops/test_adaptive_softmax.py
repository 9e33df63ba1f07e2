"""The adaptive softmax: its loss, gradients and log-probabilities by NumPy and by PyTorch."""

import re
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.adaptive_softmax import AdaptiveSoftmax, adaptive_params
from jaxgen.ops.adaptive_softmax import adaptive_logprobs, adaptive_nll, tail_nll, take
from jaxgen.ops.clusters import Clusters, capacity, make_clusters, tail_sizes

V, H, N = 29, 8, 37
COUNTS = np.random.default_rng(0).permutation(np.arange(V) ** 2)
CLUSTERS = make_clusters(COUNTS, (5, 12))


def layer(tied=False, divisor=2.0):
    module = AdaptiveSoftmax(CLUSTERS, H, divisor, tied)
    embedding = jax.random.normal(jax.random.key(3), (V, H)) if tied else None
    tree = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, H)), embedding)["params"]
    # Biases that differ, so that a test would see one left out.
    tree = jax.tree.map(lambda p: p + 0.3 * jnp.sin(jnp.arange(p.size)).reshape(p.shape), tree)
    return tree, embedding


def rows(seed=1, targets=None):
    random = np.random.default_rng(seed)
    hidden = jnp.asarray(random.normal(size=(N, H)), jnp.float32)
    drawn = random.integers(0, V, N) if targets is None else random.choice(targets, N)
    return hidden, jnp.asarray(drawn, jnp.int32)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def by_numpy(tree, embedding, hidden):
    """Probabilities of all tokens, token by token, in float64."""
    tree = {name: np.asarray(array, np.float64) for name, array in tree.items()}
    hidden = np.asarray(hidden, np.float64)
    order = np.argsort(-COUNTS, kind="stable")
    groups = [sorted(order[:5]), sorted(order[5:12]), sorted(order[12:])]
    head_kernel = tree["head_kernel"]
    if embedding is not None:
        table = np.asarray(embedding, np.float64)
        head_kernel = np.concatenate([table[groups[0]].T, head_kernel], axis=1)
    head = softmax(hidden @ head_kernel + tree["head_bias"])
    found = np.zeros((len(hidden), V))
    found[:, groups[0]] = head[:, :5]
    for tail, group in enumerate(groups[1:]):
        kernel = tree.get(f"tail_{tail}_kernel")
        kernel = np.asarray(embedding, np.float64)[group].T if kernel is None else kernel
        scores = hidden @ tree[f"tail_{tail}_projection"] @ kernel + tree[f"tail_{tail}_bias"]
        found[:, group] = head[:, 5 + tail, None] * softmax(scores)
    return found


@pytest.mark.parametrize(("tied", "divisor"), [(False, 2.0), (True, 2.0), (True, 1.0)])
def test_log_probabilities_and_loss_equal_numpy_token_by_token(tied, divisor):
    tree, embedding = layer(tied, divisor)
    assert ("tail_1_kernel" in tree) == (not tied or divisor > 1)
    hidden, targets = rows()
    expected = np.log(by_numpy(tree, embedding, hidden))
    np.testing.assert_allclose(np.exp(expected).sum(-1), 1, rtol=1e-12)
    params = adaptive_params(tree, CLUSTERS, embedding)
    found = jax.jit(adaptive_logprobs, static_argnums=1)(params, CLUSTERS, hidden)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    nll = jax.jit(adaptive_nll, static_argnums=1)(params, CLUSTERS, hidden, targets)
    np.testing.assert_allclose(nll, -expected[np.arange(N), targets], rtol=1e-5, atol=1e-5)


@partial(jax.jit, static_argnums=0)
def both_losses(shares, tree, embedding, hidden, targets, weights):
    """The loss by blocks and by all log-probabilities, with their gradients."""
    clusters = Clusters(CLUSTERS.cutoffs, shares, CLUSTERS.order)

    def blocks(tree, embedding, hidden):
        params = adaptive_params(tree, clusters, embedding)
        return (weights * adaptive_nll(params, clusters, hidden, targets, weights > 0)).sum()

    def whole(tree, embedding, hidden):
        params = adaptive_params(tree, clusters, embedding)
        found = adaptive_logprobs(params, clusters, hidden)
        return -(weights * jnp.take_along_axis(found, targets[:, None], axis=1)[:, 0]).sum()

    arguments = (tree, embedding, hidden)
    return [jax.value_and_grad(loss, (0, 1, 2))(*arguments) for loss in (blocks, whole)]


@pytest.mark.parametrize(
    "targets",
    [None, CLUSTERS.members(0), CLUSTERS.members(1), CLUSTERS.members(2)],
    ids=["all", "head", "first tail", "last tail"],
)
def test_gradients_by_blocks_equal_those_of_all_log_probabilities(targets):
    """With no row in a tail, and with all of them in one that expects few: blocks of 16 of 37."""
    tree, embedding = layer(tied=True, divisor=1.0)
    hidden, targets = rows(targets=targets)
    weights = jnp.asarray(np.random.default_rng(5).integers(0, 3, N), jnp.float32)
    ours, whole = both_losses((0.98, 0.01, 0.01), tree, embedding, hidden, targets, weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), ours, whole)


def test_blocks_hold_over_seeds_and_rows_that_do_not_count_cost_nothing():
    tree, _ = layer()
    params = adaptive_params(tree, CLUSTERS)
    places = jnp.zeros(N, jnp.int32)
    hidden = jnp.stack([rows(seed)[0] for seed in (1, 2)])
    members = jnp.stack([jnp.arange(N) < 3, jnp.arange(N) >= 0])

    def total(hidden, members):
        return tail_nll(params.tails[0], hidden, places, members, 16).sum()

    alone = jax.jit(jax.value_and_grad(total))
    found = jax.jit(jax.vmap(alone))(hidden, members)
    for seed in (0, 1):
        expected = alone(hidden[seed], members[seed])
        own = jax.tree.map(lambda x, seed=seed: x[seed], found)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), own, expected)
    assert not found[1][0, 3:].any()


@pytest.mark.peers("torch")
def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    order = CLUSTERS.ids
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(
        H, V, cutoffs=[5, 12], div_value=2.0, head_bias=True
    )
    tree = {
        "head_kernel": theirs.head.weight.T,
        "head_bias": theirs.head.bias,
        **{f"tail_{i}_projection": tail[0].weight.T for i, tail in enumerate(theirs.tail)},
        **{f"tail_{i}_kernel": tail[1].weight.T for i, tail in enumerate(theirs.tail)},
    }
    tree = {name: jnp.asarray(array.detach().numpy()) for name, array in tree.items()}
    tree |= {f"tail_{i}_bias": jnp.zeros(n) for i, n in enumerate(CLUSTERS.sizes[1:])}
    hidden, targets = rows()
    theirs_hidden = torch.tensor(np.asarray(hidden), requires_grad=True)
    output, loss = theirs(theirs_hidden, torch.tensor(CLUSTERS.ranks[np.asarray(targets)]).long())
    loss.backward()

    def mean(tree, hidden):
        nll = adaptive_nll(adaptive_params(tree, CLUSTERS), CLUSTERS, hidden, targets)
        return nll.mean(), nll

    gradient = jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))
    (ours, nll), (d_tree, d_hidden) = gradient(tree, hidden)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(ours, loss.item())
    close(-nll, output.detach().numpy())
    close(d_hidden, theirs_hidden.grad.numpy())
    close(d_tree["head_kernel"].T, theirs.head.weight.grad.numpy())
    for tail, (projection, kernel) in enumerate(theirs.tail):
        close(d_tree[f"tail_{tail}_projection"].T, projection.weight.grad.numpy())
        close(d_tree[f"tail_{tail}_kernel"].T, kernel.weight.grad.numpy())
    found = adaptive_logprobs(adaptive_params(tree, CLUSTERS), CLUSTERS, hidden)
    close(found[:, order], theirs.log_prob(theirs_hidden).detach().numpy())


@pytest.mark.slow
def test_the_python_of_the_documentation_runs():
    page = (Path(__file__).parents[2] / "docs" / "adaptive_softmax.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], names)
    chosen = names["logprobs"][jnp.arange(3), names["targets"]]
    np.testing.assert_allclose(-chosen, names["nll"], rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(names["logprobs"]).sum(1), 1, rtol=1e-5)


def test_clusters_hold_the_most_frequent_tokens_first():
    clusters = make_clusters([3, 0, 9, 9, 1, 2], (2, 3))
    assert [clusters.members(cluster).tolist() for cluster in range(3)] == [[2, 3], [0], [1, 4, 5]]
    np.testing.assert_allclose(clusters.shares, [18 / 24, 3 / 24, 3 / 24])
    assert clusters.ids[clusters.ranks].tolist() == list(range(6))
    assert clusters.cluster_of.tolist() == [1, 2, 0, 0, 2, 2]
    assert clusters.place_of.tolist() == [0, 0, 0, 1, 1, 2]
    assert Clusters.from_text(clusters.to_text()) == clusters


def test_chosen_cutoffs_cost_less_than_others():
    counts = 1e6 / (1 + np.arange(30_000))
    held = np.cumsum(counts) / counts.sum()

    def scores(cutoffs):
        """Scores a target: the head's, and those of each tail, as often as it is met."""
        total = cutoffs[0] + len(cutoffs)
        for begin, end in pairwise([*cutoffs, len(counts)]):
            total += (held[end - 1] - held[begin - 1] + 0.03) * (end - begin)
        return total

    chosen = make_clusters(counts).cutoffs
    assert len(chosen) == 2
    assert len(make_clusters(counts, tails=1).cutoffs) == 1
    for others in [(500,), (4000,), (20_000,), (500, 5000), (5000, 20_000), (2000, 10_000)]:
        assert scores(chosen) < scores(others)
    assert make_clusters([2, 1]).cutoffs == (1,)


def test_capacity_holds_what_is_expected():
    assert [capacity(share, 1000) for share in (0.0, 0.1, 0.99)] == [16, 144, 1000]
    assert capacity(0.5, 7) == 7


@pytest.mark.parametrize(
    "places", [np.arange(3, 9), np.array([5, 6, 0, 1, 2]), np.arange(39, 0, -2)]
)
def test_take_equals_indexing(places):
    """In one run, in two, and in more than slices are taken for."""
    x = jnp.arange(80.0).reshape(40, 2)
    np.testing.assert_array_equal(take(x, places), x[places])
    np.testing.assert_array_equal(take(x.T, places, axis=1), x[places].T)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_clusters(COUNTS, (5, 5)), "`cutoffs` must rise from 1 or more, got 5 5"),
        (lambda: make_clusters(COUNTS, (0, 5)), "`cutoffs` must rise from 1 or more, got 0 5"),
        (lambda: make_clusters(COUNTS, (5, V)), f"below the vocabulary of {V} tokens, got 5 {V}"),
        (lambda: make_clusters([7]), "a vocabulary of 2 tokens or more, got 1"),
        (lambda: tail_sizes(8, 4.0, 2), "`tail_divisor` must be at least 1 and leave each tail"),
        (lambda: tail_sizes(8, 0.5, 1), "got 0.5 for 1 tails"),
        (
            lambda: adaptive_params(layer(tied=True)[0], CLUSTERS, jnp.zeros((V, H + 1))),
            f"`tied` needs an embedding of shape [{V}, {H}]",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError) as error:
        call()
    assert message in str(error.value)
