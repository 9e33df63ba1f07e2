"""Adaptive softmax: a head that scores frequent tokens and clusters, and a tail for each cluster.

A token of the shortlist has the head's probability; one of a cluster has the cluster's probability
in the head times its own within the cluster's tail. The loss computes a tail only for the rows
whose target lies there, in blocks of a static number of rows.

Source: Grave, Joulin, Cissé, Grangier & Jégou (2017). Unlike PyTorch's `AdaptiveLogSoftmaxWithLoss`
the tails have biases.
"""

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.ops.bias import add_bias
from jaxgen.ops.clusters import Clusters, capacity
from jaxgen.ops.cross_entropy import cross_entropy
from jaxgen.types import Array, Bool, Float, Int

_MOST_RUNS = 16
"""Stretches of consecutive places up to which slices are taken, which is faster than a gather."""


class Tail(NamedTuple):
    """Parameters of a cluster of n tokens."""

    projection: Float[Array, "H D"]
    kernel: Float[Array, "D n"] | None
    bias: Float[Array, "n"]
    rows: Float[Array, "n D"] | None = None
    """The transpose of the kernel, in its place: the rows of an embedding. (A loop over a kernel
    that is made of them would have a copy.)"""


class AdaptiveParams(NamedTuple):
    """Parameters of an adaptive softmax whose head scores S tokens and clusters."""

    head_kernel: Float[Array, "H S"]
    head_bias: Float[Array, "S"]
    tails: tuple[Tail, ...]


def head_logprobs(params: AdaptiveParams, hidden: Float[Array, "N H"]) -> Float[Array, "N S"]:
    """Log-probabilities of the shortlist's tokens and of the clusters, float32."""
    return jax.nn.log_softmax(_head_logits(params, hidden), axis=-1)


def adaptive_logprobs(
    params: AdaptiveParams,
    clusters: Clusters,
    hidden: Float[Array, "N H"],
    head: Float[Array, "N S"] | None = None,
) -> Float[Array, "N V"]:
    """Log-probabilities of all tokens, in the order of their ids, float32.

    Args:
        params: of the layer.
        clusters: of its vocabulary.
        hidden: what it reads.
        head: from `head_logprobs`, where it is known already.
    """
    head = head_logprobs(params, hidden) if head is None else head
    shortlist = clusters.sizes[0]
    parts = [head[:, :shortlist]]
    for number, tail in enumerate(params.tails):
        within = jax.nn.log_softmax(_tail_logits(tail, hidden), axis=-1)
        parts.append(within + head[:, shortlist + number, None])
    return take(jnp.concatenate(parts, axis=1), clusters.ranks, axis=1)


def adaptive_nll(
    params: AdaptiveParams,
    clusters: Clusters,
    hidden: Float[Array, "N H"],
    targets: Int[Array, "N"],
    real: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """Negative log-likelihood of each target in nats, exact, each tail computed for its own rows.

    Args:
        params: of the layer.
        clusters: of its vocabulary.
        hidden: what it reads.
        targets: ids of tokens.
        real: False where the result does not matter: no tail is computed for that row, which gets
            a number of no meaning.
    """
    cluster = jnp.asarray(clusters.cluster_of)[targets]
    place = jnp.asarray(clusters.place_of)[targets]
    in_head = jnp.where(cluster == 0, place, clusters.sizes[0] + cluster - 1)
    nll = cross_entropy(_head_logits(params, hidden), in_head)
    if real is not None:
        cluster = jnp.where(real, cluster, 0)
    for number, tail in enumerate(params.tails, 1):
        rows = capacity(clusters.shares[number], len(hidden))
        nll += tail_nll(tail, hidden, place, cluster == number, rows)
    return nll


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def tail_nll(
    tail: Tail,
    hidden: Float[Array, "N H"],
    places: Int[Array, "N"],
    members: Bool[Array, "N"],
    block: int,
) -> Float[Array, "N"]:
    """Cross-entropy within a cluster of the rows that are its members; 0 of the others.

    The members are gathered into blocks. The first block is computed whatever it holds, and what
    its backward pass needs is kept; further ones, if there are any, run in a loop that ends with
    the last member, and are computed anew on the way back.

    Args:
        tail: parameters.
        hidden: what the layer reads.
        places: the target's place in the cluster, of members.
        members: rows whose target lies in the cluster.
        block: static; rows of a block.
    """
    return _tail_forward(tail, hidden, places, members, block)[0]


def _tail_forward(
    tail: Tail, hidden: Array, places: Array, members: Array, block: int
) -> tuple[Array, Any]:
    rows_of = _blocks(members, block)
    rows, real = rows_of(0)
    loss = partial(_block_nll, places=places[rows], real=real)
    nll, pull = jax.vjp(loss, tail, hidden[rows])
    found = jnp.zeros(len(hidden), jnp.float32).at[rows].add(nll)

    def more(state: tuple) -> tuple:
        number, found = state
        rows, real = rows_of(number)
        return number + 1, found.at[rows].add(_block_nll(tail, hidden[rows], places[rows], real))

    _, found = _while_members(members, block, more, (jnp.int32(1), found))
    return found, (pull, tail, hidden, places, members)


def _tail_backward(block: int, residuals: Any, d_nll: Array) -> tuple[Tail, Array, None, None]:
    pull, tail, hidden, places, members = residuals
    rows_of = _blocks(members, block)
    rows, _ = rows_of(0)
    d_tail, d_rows = pull(d_nll[rows])
    d_hidden = jnp.zeros_like(hidden).at[rows].add(d_rows)

    def more(state: tuple) -> tuple:
        number, d_tail, d_hidden = state
        rows, real = rows_of(number)
        loss = partial(_block_nll, places=places[rows], real=real)
        d_more, d_rows = jax.vjp(loss, tail, hidden[rows])[1](d_nll[rows])
        d_tail = jax.tree.map(jnp.add, d_tail, d_more)
        return number + 1, d_tail, d_hidden.at[rows].add(d_rows)

    _, d_tail, d_hidden = _while_members(members, block, more, (jnp.int32(1), d_tail, d_hidden))
    return d_tail, d_hidden, None, None


tail_nll.defvjp(_tail_forward, _tail_backward)


def _blocks(members: Bool[Array, "N"], block: int) -> Any:
    """A function from a block's number to its rows and which of them are members.

    A row that fills the last block is row 0, and not real.
    """
    size = len(members) + -len(members) % block
    place = jnp.where(members, jnp.cumsum(members.astype(jnp.int32)) - 1, size)
    numbers = jnp.arange(len(members), dtype=jnp.int32)
    rows = jnp.zeros(size, jnp.int32).at[place].set(numbers, mode="drop")
    count = members.sum()

    def rows_of(number: Any) -> tuple[Array, Array]:
        start = number * block
        found = jax.lax.dynamic_slice_in_dim(rows, start, block)
        return found, jnp.arange(block) < count - start

    return rows_of


def _while_members(members: Array, block: int, more: Any, state: tuple) -> tuple:
    """Run `more` for each block after the first; none, where one holds all rows."""
    if block >= len(members):
        return state
    count = members.sum()
    return jax.lax.while_loop(lambda state: state[0] * block < count, more, state)


def _block_nll(
    tail: Tail, hidden: Float[Array, "R H"], places: Int[Array, "R"], real: Bool[Array, "R"]
) -> Float[Array, "R"]:
    return jnp.where(real, cross_entropy(_tail_logits(tail, hidden), jnp.where(real, places, 0)), 0)


def _head_logits(params: AdaptiveParams, hidden: Array) -> Array:
    return add_bias(_product(hidden, params.head_kernel), params.head_bias)


def _tail_logits(tail: Tail, hidden: Array) -> Array:
    reduced = _product(hidden, tail.projection).astype(hidden.dtype)
    kernel = tail.kernel if tail.rows is None else tail.rows.T
    assert kernel is not None
    return add_bias(_product(reduced, kernel), tail.bias)


def _product(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def rows_by_cluster(
    table: Float[Array, "V H"], clusters: Clusters
) -> tuple[Float[Array, "n H"], ...]:
    """The rows of each cluster's tokens; on the way back all are joined, none filled up and added.

    Args:
        table: a row for each token.
        clusters: of its vocabulary.
    """
    return tuple(take(table, clusters.members(number)) for number in range(len(clusters.sizes)))


def _rows_forward(table: Array, clusters: Clusters) -> tuple[tuple[Array, ...], None]:
    return rows_by_cluster(table, clusters), None


def _rows_backward(clusters: Clusters, _: None, d_rows: tuple[Array, ...]) -> tuple[Array]:
    return (take(jnp.concatenate(d_rows), clusters.ranks),)


rows_by_cluster.defvjp(_rows_forward, _rows_backward)


def take(x: Array, places: Int[np.ndarray, "n"], axis: int = 0) -> Array:
    """`jnp.take(x, places, axis)` of places known beforehand, by slices where they are in runs."""
    starts = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
    if len(starts) - 1 > _MOST_RUNS:
        return jnp.take(x, jnp.asarray(places), axis=axis, mode="clip", unique_indices=True)
    slices = [
        jax.lax.slice_in_dim(x, int(places[begin]), int(places[end - 1]) + 1, axis=axis)
        for begin, end in pairwise(starts)
    ]
    return slices[0] if len(slices) == 1 else jnp.concatenate(slices, axis=axis)
