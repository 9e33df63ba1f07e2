"""Beam search over texts: options checked, stop strings obeyed, tokens made texts."""

from collections.abc import Sequence
from typing import Any, Generic

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation import programs
from jaxgen.generation.beam import beam_search
from jaxgen.generation.carry import PromptState, take
from jaxgen.generation.decoding import Prepared
from jaxgen.generation.lines import Beam, text_before_stop
from jaxgen.generation.requests import (
    Label,
    LabelOrEach,
    Labels,
    OneOrEach,
    Options,
    Request,
    SharedOptions,
    Value,
    check_options,
)
from jaxgen.generation.runner import Runner, padded_key
from jaxgen.generation.score_text import score_rows
from jaxgen.generation.stochastic_beam import stochastic_beam_search
from jaxgen.generation.stop_automaton import StopAutomaton, StopParams, StopStep, stop_automaton
from jaxgen.generation.stop_strings import StopStrings
from jaxgen.types import PyTree


class BeamOptions(SharedOptions[Value, Labels], Generic[Value, Labels], total=False):
    """What `TextModel.beam_search` takes."""

    num_beams: int
    """Width of the beam."""
    sampled: bool
    """Draw without replacement (`stochastic_beam_search`) instead."""
    length_penalty: float
    """As in `jaxgen.generation.beam.beam_search`, and so are those below."""
    length_offset: float
    coverage_penalty: float
    patience: float
    num_groups: int
    diversity_penalty: float


class BeamOne(BeamOptions[float, Label], total=False):
    """One value an option."""


class BeamEach(BeamOptions[OneOrEach, LabelOrEach], total=False):
    """One value an option, or one a prompt."""


_RANDOM = sorted(set(Options.__annotations__) - set(BeamOptions.__annotations__))
_UNSAMPLED = (
    *("length_penalty", "length_offset", "coverage_penalty", "patience"),
    *("num_groups", "diversity_penalty"),
)


def check_beam_options(options: dict[str, Any], n: int | None) -> None:
    """UserError for an option that is unknown, or that the search has no use for."""
    if wrong := [name for name in _RANDOM if name in options]:
        raise UserError(
            f"`{wrong[0]}` shapes a random choice, and a beam search ranks texts by the model's "
            "own probabilities; leave it out, or use `generate`"
        )
    check_options(options, BeamOptions.__annotations__)
    sampled = options.get("sampled", False)
    if sampled and (wrong := [name for name in _UNSAMPLED if name in options]):
        raise UserError(f"`{wrong[0]}` is not for `sampled` texts; leave one of the two out")
    if not sampled and "key" in options:
        raise UserError("`key` is for `sampled` texts, a beam search is not random; leave it out")
    beams = options.get("num_beams", 4)
    if n is not None and not 1 <= n <= beams:
        raise UserError(f"`n` must be in [1, num_beams = {beams}], got {n}")


def search(
    runner: Runner, tokenizer: Any, request: Request, options: dict[str, Any], n: int
) -> list[list[Beam]]:
    """The `n` best texts of each row; fewer where the search finds fewer.

    Of several hypotheses with one text the best is kept, so that the texts of a row differ; texts
    drawn by `sampled` stay as they were drawn.

    With stop strings a text ends in the search with the token that completes one, and is ranked by
    the tokens so far. That last token is not held to `no_repeat_ngram`, and `min_new_tokens` puts
    it off as it does stop tokens.
    """
    stops = StopStrings(options.get("stop")).stops
    automaton = stop_automaton(tokenizer, stops) if stops else None
    state = _state(runner, request)
    tokens, lengths, *numbers = _found(runner, tokenizer, request, state, options, automaton)
    sampled = options.get("sampled", False)
    rows, cut = [], []
    for row, prompt in enumerate(request.rows):
        context = request.context[prompt]
        beams: dict[Any, Beam] = {}
        for place in range(int((lengths[row] > 0).sum())):
            length = int(lengths[row, place])
            ids = tokens[row, place, :length].tolist()
            text, count = text_before_stop(tokenizer, context, ids, stops, request.ending)
            name = place if sampled else text
            if name in beams:
                continue
            if count < length:
                cut.append((row, len(beams), ids[:count]))
            logprob, rank, *each = (x[row, place] for x in numbers)
            known = each[0][:count].tolist() if each else None
            beams[name] = Beam(text, ids[:count], float(logprob), float(rank), known)
            if len(beams) == n:
                break
        if not beams:
            raise UserError(
                f"the search found no text for row {row + 1}: every token is banned, or the "
                "model's logits are not numbers"
            )
        rows.append(list(beams.values()))
    if cut:
        index = np.array([row for row, _, _ in cut])
        texts = [np.array(ids, np.int32) for _, _, ids in cut]
        scores = score_rows(runner, take(state, index.tolist()), texts)
        for (row, place, _), score in zip(cut, scores, strict=True):
            known = None if sampled else score.tolist()
            beam = rows[row][place]
            rows[row][place] = beam._replace(logprob=float(score.sum()), token_logprobs=known)
    return rows


def _state(runner: Runner, request: Request) -> PromptState:
    """The state after the prompt of each row, padded."""
    state = runner.prefill(request)
    found = PromptState(state.carry, state.token)
    if len(request.rows) == len(request.prompts):
        return found
    return take(found, programs.pad_rows(request.rows, programs.batch_bucket(len(request.rows))))


def _found(
    runner: Runner,
    tokenizer: Any,
    request: Request,
    state: PromptState,
    options: dict[str, Any],
    automaton: StopAutomaton | None,
) -> Sequence[np.ndarray]:
    """Tokens [B, K, N], lengths, log-probabilities and ranks [B, K] that the search finds.

    Unless they are sampled, the log-probabilities of the tokens too.
    """
    count, batch = len(request.rows), state.token.shape[0]
    given = dict(programs.pad_settings(request.sampling, count, batch).items())
    given.pop("temperature")
    given |= {name: options[name] for name in _UNSAMPLED if name in options}
    contexts = [request.context[prompt] for prompt in request.rows]
    step_fn: Any = Prepared(runner.choosing.choosing_step)
    params, carry = runner.prepared, runner.choosing.begin(state.carry, batch)
    if automaton is not None:
        states = [automaton.start(tokenizer, context) for context in contexts]
        starts = programs.pad_rows(np.array(states, np.int32), batch)
        params = StopParams(params, automaton.table, automaton.completing)
        step_fn, carry = StopStep(step_fn), (carry, starts)
        lists = [np.tile(automaton.stop_tokens(), (batch, 1))]
        if "stop_tokens" in given:
            lists.append(automaton.doubles(given["stop_tokens"]))
        given["stop_tokens"] = np.concatenate(lists, axis=1)
        if "banned_tokens" in given:
            given["banned_tokens"] = automaton.doubles(given["banned_tokens"])
    prompts: Any = (np.asarray(state.token)[:, None], None)
    if "no_repeat_ngram" in given:  # looks back on the prompt, which need not be read again
        prompts = _padded(contexts, batch)
        given["prefill_fn"] = _read_before
    given["prompt_tokens"], given["prompt_lengths"] = prompts
    given["max_new_tokens"] = options.get("max_new_tokens", 100)
    width = options.get("num_beams", 4)
    if options.get("sampled"):
        key = padded_key(options.get("key", 0), count, batch)
        drawn = stochastic_beam_search(step_fn, params, carry, key=key, num_samples=width, **given)
        found: tuple = (drawn.tokens, drawn.lengths, drawn.logprobs, drawn.gumbels)
    else:
        best = beam_search(step_fn, params, carry, num_beams=width, **given)
        found = (best.tokens, best.lengths, best.logprobs, best.scores, best.token_logprobs)
    tokens, *rest = (np.asarray(x) for x in jax.device_get(found))
    return [tokens if automaton is None else automaton.real(tokens), *rest]


def _padded(contexts: Sequence[np.ndarray], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The last tokens of some contexts [B, P] and their lengths [B]."""
    parts = [context[-programs.NGRAM_WINDOW :] for context in contexts]
    ((tokens, lengths),) = programs.prompt_segments(parts, batch, largest=programs.NGRAM_WINDOW)
    return tokens, lengths


def _read_before(params: PyTree, carry: PyTree, tokens: Any, mask: Any) -> tuple[PyTree, None]:
    """A `prefill_fn` for prompts that the carry knows already."""
    return carry, None
