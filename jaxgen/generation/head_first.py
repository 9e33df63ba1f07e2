"""Tokens drawn from the head of an adaptive softmax; its tails are computed where they decide.

A head knows the log-probability of each frequent token, and that of each cluster of rare ones: a
bound of what any of its tokens, and all of them, can weigh under the temperature. A proposal is
drawn from the weights of the frequent tokens and these bounds. A frequent token that is kept by
top-k, top-p and min-p whatever the tails hold is the answer. For the other rows all
log-probabilities are computed: a cluster is accepted with what it weighs over its bound, and then
one of its tokens drawn; what is rejected is drawn anew from the exact weights. That is rejection
sampling: tokens follow the same distribution as `draw`'s, though not from the same random numbers.

Penalties and bans may only lower a bound; a row with a setting that raises weights (a repetition
penalty below 1, a negative one) is drawn from all log-probabilities.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxgen.generation.draw import (
    Noise,
    _above_min_p,
    _pick,
    _redraw,
    _rejects,
    _weights,
)
from jaxgen.generation.forward_only import forward_only
from jaxgen.generation.largest import keep_top_k, peak_of
from jaxgen.generation.penalties import Bans, PenaltyState, penalise
from jaxgen.generation.sampling import SamplingParams
from jaxgen.ops.adaptive_softmax import take
from jaxgen.ops.clusters import Clusters
from jaxgen.types import Array, Bool, Float, Int, PyTree

_SLACK = 1e-5
"""Relative: what sums of float32 may be off by where a bound decides."""
_MORE = 2**31
"""What is folded into a key for the draw from all log-probabilities; `_redraw` counts from 0."""


@runtime_checkable
class HeadFirst(Protocol):
    """What a step function may have as `head_first`: a step that leaves its tails for later."""

    @property
    def clusters(self) -> Clusters:
        """Which tokens stand in the head, and which in each tail."""
        ...

    def __call__(
        self, params: Any, carry: Any, tokens: Int[Array, "B"]
    ) -> tuple[PyTree, Float[Array, "B S"], PyTree]:
        """The new carry, the head's log-probabilities, and what `complete` needs, rows first."""
        ...

    def complete(self, params: Any, head: Float[Array, "N S"], rest: PyTree) -> Float[Array, "N V"]:
        """The step function's logits, of any rows; they are log-probabilities."""
        ...


class Texts(NamedTuple):
    """What the choice of a token depends on beside the model, a row each."""

    sampling: SamplingParams
    penalties: PenaltyState
    bans: Bans
    length: Any
    """Int[B], or None where no setting asks."""
    finished: Any
    """Bool[B], rows that need no token; or None."""
    noise: Noise


class Proposal(NamedTuple):
    """What the head proposes, a row each."""

    token: Int[Array, "B"]
    """The proposed token; -1: one of a tail."""
    cluster: Int[Array, "B"]
    """The proposed cluster; 0: the token itself."""
    bound: Float[Array, "B"]
    """What the cluster weighs at most, in units of a token with the logit `peak`."""
    peak: Float[Array, "B"]
    sure: Bool[Array, "B"]
    """Whether the token is kept whatever the tails hold."""
    fresh: Bool[Array, "B"]
    """Whether the proposal is none: the row is drawn from all log-probabilities."""


class Chosen(NamedTuple):
    """A token of each row."""

    token: Int[Array, "B"]
    """As `draw` gives it."""
    broken: Bool[Array, "B"]
    """Whether the logits were no numbers."""
    logprob: Float[Array, "B"]
    """Of the token under the model itself."""


def head_first_of(step_fn: Any, sampling: SamplingParams) -> HeadFirst | None:
    """The `head_first` of a step function, if it has one that these settings can do with."""
    if sampling.typical_p is not None or sampling.forced_tokens is not None:
        return None
    return getattr(step_fn, "head_first", None)


def shortlist_bans(clusters: Clusters, bans: Bans) -> Bans:
    """The masks of the head's own tokens."""
    return jax.tree.map(lambda mask: take(mask, clusters.members(0), axis=1), bans)


def choose_head_first(
    step: HeadFirst, params: Any, state: Any, texts: Texts, bans: Bans
) -> tuple[PyTree, Chosen]:
    """Take a step and choose the next token of each row.

    Args:
        step: the model.
        params: its parameters, prepared.
        state: `DecodeState`, for its carry and the token to be read.
        texts: settings and what is known of the texts.
        bans: from `shortlist_bans`.

    Returns:
        The new carry, and the tokens.
    """
    carry, head, rest = step(params, state.carry, state.token)
    proposal = _propose(step.clusters, head, texts, bans)
    chosen = Chosen(proposal.token, ~(proposal.peak < jnp.inf), _of(step.clusters, head, proposal))
    known = (head, rest, proposal, texts)

    def complete(rows: Array | None) -> Chosen:
        some = known if rows is None else jax.tree.map(lambda x: x[rows], known)
        return _complete(step, params, *some)

    wanted = ~proposal.sure & ~chosen.broken
    if texts.finished is not None:
        wanted &= ~texts.finished
    chosen = _for_rows(wanted, chosen, complete)
    return carry, chosen._replace(logprob=forward_only(chosen.logprob))


def _for_rows(
    wanted: Bool[Array, "B"], chosen: Chosen, complete: Callable[[Array | None], Chosen]
) -> Chosen:
    """`chosen` with `complete` of the wanted rows: of a few at a time, or of all where most are."""
    batch = len(wanted)
    few = -(-batch // 8)

    def every(state: tuple[Array, Chosen]) -> tuple[Array, Chosen]:
        wanted, chosen = state
        both = jax.tree.map(lambda new, old: jnp.where(wanted, new, old), complete(None), chosen)
        return jnp.zeros_like(wanted), both

    def some(state: tuple[Array, Chosen]) -> tuple[Array, Chosen]:
        wanted, chosen = state
        _, rows = jax.lax.top_k(wanted.astype(jnp.float32), few)

        def put(old: Array, new: Array) -> Array:
            return old.at[rows].set(jnp.where(wanted[rows], new, old[rows]))

        return wanted.at[rows].set(False), jax.tree.map(put, chosen, complete(rows))

    state = (wanted, chosen)
    most = wanted.sum() > batch // 2
    wanted, chosen = jax.lax.cond(most, every, lambda state: state, state)
    if batch > 1:
        _, chosen = jax.lax.while_loop(lambda state: state[0].any(), some, (wanted, chosen))
    return chosen


def _of(clusters: Clusters, head: Float[Array, "B S"], proposal: Proposal) -> Float[Array, "B"]:
    """The log-probability of proposed tokens; anything where a cluster is proposed."""
    place = jnp.asarray(clusters.place_of)[proposal.token]
    return jnp.take_along_axis(head, place[:, None], axis=1)[:, 0]


def _propose(clusters: Clusters, head: Float[Array, "B S"], texts: Texts, bans: Bans) -> Proposal:
    """Draw from the weights of the head's tokens and the bounds of its clusters."""
    sampling, shortlist = texts.sampling, clusters.sizes[0]
    state = _in_shortlist(clusters, texts.penalties)
    words = jax.vmap(penalise)(head[:, :shortlist], sampling, state, bans, texts.length)
    words, tails = jax.lax.stop_gradient((words, head[:, shortlist:]))
    places = None
    if sampling.top_k is not None:
        words, places, largest = keep_top_k(words, sampling)
    else:
        largest = peak_of(words)
    peak = jnp.maximum(largest, peak_of(tails))[:, None]
    bounds = _bounds(clusters, words, tails, peak, sampling)
    hot = sampling.temperature > 0
    uniforms = jnp.where(hot[:, None], texts.noise.uniforms, 0)
    place = _pick(jnp.concatenate([bounds.words, bounds.sums], axis=1), uniforms)
    cluster = jnp.maximum(place - words.shape[1] + 1, 0)
    place = jnp.minimum(place, words.shape[1] - 1)[:, None]
    sure = _surely_kept(clusters, words, tails, place, bounds, texts)
    sure = jnp.where(hot, sure, words.max(axis=1) > tails.max(axis=1))
    if places is not None:
        place = jnp.take_along_axis(places, place, axis=1)
    token = jnp.asarray(clusters.members(0))[place[:, 0]]
    fresh = ~hot | _raised(sampling)
    bound = jnp.take_along_axis(bounds.sums, jnp.maximum(cluster - 1, 0)[:, None], axis=1)[:, 0]
    sure &= (cluster == 0) & ~_raised(sampling)
    return Proposal(jnp.where(cluster == 0, token, -1), cluster, bound, peak[:, 0], sure, fresh)


class _Bounds(NamedTuple):
    """Weights in units of a token with the logit `peak`."""

    all_words: Float[Array, "B n"]
    """Of the head's tokens."""
    words: Float[Array, "B n"]
    """The same, 0 where min-p surely removes the token."""
    largest: Float[Array, "B K"]
    """Of any token of a tail, at most."""
    all_sums: Float[Array, "B K"]
    """Of all tokens of a tail, at most."""
    sums: Float[Array, "B K"]
    """The same, 0 where top-k or min-p surely remove all of them."""


def _bounds(
    clusters: Clusters, words: Array, tails: Array, peak: Array, sampling: SamplingParams
) -> _Bounds:
    """What tokens and tails weigh at most.

    Probabilities q of n tokens that sum to 1 have a sum of q ** a that is at most 1 for a >= 1,
    and at most n ** (1 - a) for a < 1.
    """
    weights, largest = (_weights(x, peak, sampling) for x in (words, tails))
    all_sums = largest * jnp.maximum(1, _spread(clusters, sampling))
    kept, sums = weights, all_sums
    if sampling.min_p is not None:
        least = (sampling.min_p * weights.max(axis=1))[:, None]
        kept = jnp.where(weights >= least, weights, 0)
        sums = jnp.where(largest >= least, sums, 0)
    if sampling.top_k is not None:
        real = words > -jnp.inf
        full = real.sum(axis=1) >= _k(clusters, sampling)
        beaten = jnp.where(real, words, jnp.inf).min(axis=1)[:, None] > tails
        sums = jnp.where(full[:, None] & beaten, 0, sums)
    return _Bounds(weights, kept, largest, all_sums, sums)


def _spread(clusters: Clusters, sampling: SamplingParams) -> Float[Array, "B K"]:
    """Of each tail of n tokens n ** (1 - 1 / temperature); 1 for a greedy row."""
    sizes = jnp.log(jnp.asarray(clusters.sizes[1:], jnp.float32))
    hot = sampling.temperature > 0
    power = jnp.where(hot, 1 - 1 / jnp.where(hot, sampling.temperature, 1), 0)
    return jnp.exp(power[:, None] * sizes)


def _k(clusters: Clusters, sampling: SamplingParams) -> Int[Array, "B"]:
    """How many tokens of the whole vocabulary top-k keeps."""
    size, cap = len(clusters.ids), sampling.max_top_k
    cap = size if cap is None or cap < 0 else min(cap, size)
    return jnp.where(sampling.top_k > 0, jnp.minimum(sampling.top_k, cap), cap)


def _surely_kept(
    clusters: Clusters, words: Array, tails: Array, place: Array, bounds: _Bounds, texts: Texts
) -> Bool[Array, "B"]:
    """Whether top-k, top-p and min-p keep the head's token at a place whatever the tails hold."""
    sampling = texts.sampling
    value, weight = (jnp.take_along_axis(x, place, axis=1) for x in (words, bounds.all_words))
    kept = jnp.ones(len(words), bool)
    if sampling.top_k is not None:
        # A tail with the log-probability t holds fewer than exp(t - v) tokens of v or more.
        sizes = jnp.asarray(clusters.sizes[1:], jnp.float32)
        many = jnp.floor(jnp.exp(jnp.minimum(tails - value, 60)) * (1 + _SLACK))
        others = (words >= value).astype(jnp.float32).sum(axis=1) - 1
        others += jnp.minimum(many, sizes).sum(axis=1)
        kept &= others < _k(clusters, sampling).astype(jnp.float32)
    if sampling.min_p is not None:
        largest = jnp.maximum(bounds.all_words.max(axis=1), bounds.largest.max(axis=1))
        kept &= weight[:, 0] >= sampling.min_p * largest * (1 + _SLACK)
    if sampling.top_p is not None:
        top_p = sampling.top_p
        held = jnp.where(bounds.all_words > weight, bounds.all_words, 0).sum(axis=1)
        # What tails hold of more likely tokens counts on both sides, but for what top-k removes.
        share = (1 - top_p if sampling.top_k is None else jnp.ones_like(top_p))[:, None]
        rivals = bounds.largest > weight
        worst = held + jnp.where(rivals, share * bounds.all_sums, 0).sum(axis=1)
        mass = bounds.all_words.sum(axis=1)
        if _is_plain(texts):
            least = bounds.largest * jnp.minimum(1, _spread(clusters, sampling))
            mass += jnp.where(rivals, 0, least).sum(axis=1)
        kept &= (worst < top_p * mass * (1 - _SLACK)) | (top_p >= 1)
    return kept


def _is_plain(texts: Texts) -> bool:
    """Whether all tokens keep their weights, so that a tail's has a lower bound too."""
    changes = jax.tree.leaves((texts.penalties, texts.bans))
    return texts.sampling.top_k is None and not changes


def _raised(sampling: SamplingParams) -> Bool[Array, "B"]:
    """Whether a penalty of a row may make tokens more likely."""
    raised = jnp.zeros(sampling.temperature.shape, bool)
    if sampling.repetition_penalty is not None:
        raised |= sampling.repetition_penalty < 1
    for penalty in (sampling.presence_penalty, sampling.frequency_penalty):
        if penalty is not None:
            raised |= penalty < 0
    return raised


def _in_shortlist(clusters: Clusters, state: PenaltyState) -> PenaltyState:
    """What penalties need to know of the head's own tokens, by their places in it."""
    members = clusters.members(0)
    seen, counts = (
        None if mask is None else take(mask, members, axis=1) for mask in (state.seen, state.counts)
    )
    history = state.history
    if history is not None:
        token = jnp.maximum(history, 0)
        there = (history >= 0) & (jnp.asarray(clusters.cluster_of)[token] == 0)
        history = jnp.where(there, jnp.asarray(clusters.place_of)[token], -1)
    return PenaltyState(seen, counts, history, state.runs)


def _complete(
    step: HeadFirst, params: Any, head: Array, rest: PyTree, proposal: Proposal, texts: Texts
) -> Chosen:
    """What a proposal comes to where all log-probabilities are known."""
    sampling, keys = texts.sampling, texts.noise.key
    logprobs = step.complete(params, head, rest).astype(jnp.float32)
    changed = jax.vmap(penalise)(logprobs, sampling, texts.penalties, texts.bans, texts.length)
    changed = kept = jax.lax.stop_gradient(changed)
    ids = jnp.arange(changed.shape[1])[None]
    if sampling.top_k is not None:
        kept, ids, peak = keep_top_k(changed, sampling)
    else:
        peak = peak_of(changed)
    weights = _weights(kept, peak[:, None], sampling)
    allowed = _above_min_p(weights, sampling)
    cluster = jnp.asarray(step.clusters.cluster_of)[ids]
    of_cluster = cluster == proposal.cluster[:, None]
    proposed = jnp.where(proposal.token[:, None] < 0, of_cluster, ids == proposal.token[:, None])
    temperature = jnp.where(proposal.fresh, 1, sampling.temperature)
    unit = jnp.exp((peak - proposal.peak) / temperature)
    mass = jnp.where(proposed, allowed, 0).sum(axis=1) * unit
    uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _MORE), (3,)))(keys)
    accepted = jnp.where(proposal.token < 0, uniform[:, 0] * proposal.bound < mass, mass > 0)
    accepted &= ~proposal.fresh
    uniforms = jnp.where(sampling.temperature[:, None] > 0, uniform[:, 1:], 0)
    place = _pick(jnp.where(proposed | ~accepted[:, None], allowed, 0), uniforms)
    if _rejects(sampling):
        place = _redraw(weights, sampling, keys, place)
    token = place
    if sampling.top_k is not None:
        token = jnp.take_along_axis(ids, place[:, None], axis=1)[:, 0]
    logprob = jnp.take_along_axis(logprobs, token[:, None], axis=1)[:, 0]
    token = jnp.where(jnp.isfinite(peak), token, -1)
    return Chosen(token, ~(peak < jnp.inf), logprob)
