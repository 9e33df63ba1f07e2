"""The hypotheses of a beam search: what they are ranked by, how they go on and how they end."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.largest import top_k
from jaxgen.types import Array, Bool, Float, Int


class Hypotheses(NamedTuple):
    """Those of one group of one row, or of all; a log-probability of -inf marks a free place."""

    tokens: Int[Array, "*K N"]
    token_logprobs: Float[Array, "*K N"]
    length: Int[Array, "*K"]
    logprob: Float[Array, "*K"]
    score: Float[Array, "*K"]


class Ranking(NamedTuple):
    """The settings of a search that are numbers; see `beam_search`."""

    length_penalty: Float[Array, ""]
    length_offset: Float[Array, ""]
    coverage_penalty: Float[Array, ""] | None
    diversity_penalty: Float[Array, ""]
    patience: Float[Array, ""] | None

    def score(self, logprob: Array, length: Array | int, penalty: Array | float = 0.0) -> Array:
        """What a hypothesis is ranked by; `penalty` is added, and 0 at most."""
        length = jnp.maximum(jnp.asarray(length, jnp.float32), 1)
        relative = (self.length_offset + length) / (self.length_offset + 1)
        return logprob / relative**self.length_penalty + penalty


def without(texts: Hypotheses, mask: Bool[Array, "..."]) -> Hypotheses:
    """The hypotheses with free places where the mask, broadcast, is True."""
    logprob, score = (jnp.where(mask, -jnp.inf, x) for x in (texts.logprob, texts.score))
    return texts._replace(logprob=logprob, score=score)


def best(pool: Hypotheses, width: int) -> Hypotheses:
    """The best of a pool by their scores."""
    _, order = top_k(pool.score, width)
    return jax.tree.map(lambda x: x[order], pool)


def one_step(
    running: Hypotheses,
    ended: Hypotheses,
    logprobs: Float[Array, "G K V"],
    penalties: Float[Array, "G K"],
    stops: Int[Array, "S"],
    stop_bans: Float[Array, "V"],
    *,
    step: Array,
    ranking: Ranking,
    may_end: bool,
) -> tuple[Hypotheses, Int[Array, "G K"], Hypotheses, Int[Array, "G"]]:
    """The hypotheses of one row after one more token.

    Args:
        running: [G, K].
        ended: [G, K].
        logprobs: of the next token of each running text, -inf where it may not come.
        penalties: what the coverage adds to the scores, 0 at most.
        stops: the stop tokens; -1 is none.
        stop_bans: -inf at the stop tokens, else 0.
        step: tokens of each running text.
        ranking: settings.
        may_end: whether a text may end because no token may continue it.

    Returns:
        The running texts; which of the G * K earlier ones each continues; the ended texts; how
        many ended now.
    """
    after, parents = _go_on(running, logprobs + stop_bans, penalties, step, ranking)
    least = jnp.full(logprobs.shape[:1], -jnp.inf)
    if ranking.patience is not None:
        least = after.logprob.min(axis=-1)
    of_group = partial(_end, stops=stops, step=step, ranking=ranking, may_end=may_end)
    ended, count = jax.vmap(of_group)(running, ended, logprobs, penalties, least)
    return after, parents, ended, count


def _go_on(
    running: Hypotheses,
    logprobs: Float[Array, "G K V"],
    penalties: Float[Array, "G K"],
    step: Array,
    ranking: Ranking,
) -> tuple[Hypotheses, Int[Array, "G K"]]:
    """The running texts with their best next tokens, group after group."""
    groups, width, vocab_size = logprobs.shape
    taken = jnp.zeros(vocab_size)
    texts, parents = [], []
    for group in range(groups):
        before = jax.tree.map(lambda x, group=group: x[group], running)
        total = before.logprob[:, None] + logprobs[group]
        _, place = top_k((total - ranking.diversity_penalty * taken).reshape(-1), width)
        parent, token = place // vocab_size, place % vocab_size
        logprob = total.reshape(-1)[place]
        token_logprob = logprobs[group].reshape(-1)[place]
        length = jnp.full((width,), step + 1)
        texts.append(
            Hypotheses(
                before.tokens[parent].at[:, step].set(token),
                before.token_logprobs[parent].at[:, step].set(token_logprob),
                length,
                logprob,
                ranking.score(logprob, length, penalties[group][parent]),
            )
        )
        parents.append(parent + group * width)
        taken = taken.at[token].add(jnp.where(logprob > -jnp.inf, 1.0, 0.0))
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *texts)
    return stacked, jnp.stack(parents)


def _end(
    running: Hypotheses,
    ended: Hypotheses,
    logprobs: Float[Array, "K V"],
    penalties: Float[Array, "K"],
    least: Float[Array, ""],
    *,
    stops: Int[Array, "S"],
    step: Array,
    ranking: Ranking,
    may_end: bool,
) -> tuple[Hypotheses, Int[Array, ""]]:
    """The ended texts of one group with those that end at this step, and the number of these.

    Those are the ones that a stop token ends, if they are at least as likely as `least`; with
    `may_end` also the running texts that no token may continue, as they are.
    """
    width, kinds = running.logprob.shape[0], stops.shape[0]
    again = jnp.tril(stops[:, None] == stops, -1).any(axis=1)  # two texts alike would be kept
    said = jnp.where((stops < 0) | again, -jnp.inf, logprobs[:, stops])
    logprob = (running.logprob[:, None] + said).reshape(-1)
    logprob = jnp.where(logprob >= least, logprob, -jnp.inf)
    tokens, token_logprobs = (
        jnp.repeat(x, kinds, axis=0) for x in (running.tokens, running.token_logprobs)
    )
    length = jnp.full(logprob.shape, step + 1)
    stopped = Hypotheses(
        tokens.at[:, step].set(jnp.tile(stops, width)),
        token_logprobs.at[:, step].set(said.reshape(-1)),
        length,
        logprob,
        ranking.score(logprob, length, jnp.repeat(penalties, kinds)),
    )
    pools = [stopped]
    if may_end:
        exhausted = (logprobs.max(axis=1) == -jnp.inf) & (step > 0)
        pools.append(without(running, ~exhausted))
    new = jax.tree.map(lambda *xs: jnp.concatenate(xs), *pools)
    pool = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ended, new)
    return best(pool, width), (new.logprob > -jnp.inf).sum(dtype=jnp.int32)


def is_done(
    running: Hypotheses,
    ended: Hypotheses,
    num_ended: Int[Array, "B G"],
    *,
    count: int,
    ranking: Ranking,
    may_end: bool,
) -> Bool[Array, "B G"]:
    """The groups in which no running text can become better than the worst that is kept.

    With patience also those in which enough texts have ended.
    """
    most = running.logprob.max(axis=-1)
    # The best that a running text can come to: no more loss, the length that favours it, and all
    # of the source covered.
    soonest = running.length[..., 0] + (0 if may_end else 1)
    bound = jnp.maximum(ranking.score(most, count), ranking.score(most, soonest))
    done = bound <= ended.score.min(axis=-1)
    if ranking.patience is not None:
        enough = ranking.patience * running.logprob.shape[-1] - 1e-3  # as 0.7 * 10 is not quite 7
        done |= num_ended.astype(jnp.float32) >= enough
    return done
