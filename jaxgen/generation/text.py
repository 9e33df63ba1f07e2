"""`TextModel`: a trained language model with strings in and strings out."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation import programs
from jaxgen.generation.beam import beam_search
from jaxgen.generation.carry import Reading
from jaxgen.generation.checks import check_key
from jaxgen.generation.decoding import DecodeState, PrefillFn, Prepared, StepFn, prepared
from jaxgen.generation.lines import Beam, Line, continuation, texts_of
from jaxgen.generation.requests import Prompt, Prompts, Request, is_one, make_request
from jaxgen.generation.score import score_checked
from jaxgen.generation.stochastic_beam import stochastic_beam_search
from jaxgen.types import PyTree

_PIECE = 64
"""Steps between two looks at the text for a stop string."""


@dataclass(frozen=True, eq=False)
class TextModel:
    """A language model with its tokenizer.

    Attributes:
        params: the model's parameters.
        config: the settings it was trained with; not used here.
        tokenizer: `encode(text)`, `decode(ids)`, `decoder()` (with `push(ids)` and `finish()`),
            `start_id` (what an empty prompt starts from), `vocab_size`.
        step_fn: `step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])`.
        prefill_fn: as in `jaxgen.generate`; None reads prompts step by step.
        initial_carry: `initial_carry(batch_size)`, or `(batch_size, labels[B])` where conditioned.
    """

    params: PyTree
    config: Any
    tokenizer: Any
    step_fn: StepFn
    prefill_fn: PrefillFn | None
    initial_carry: Callable[..., PyTree]

    def generate(
        self,
        prompt: Prompts = "",
        *,
        max_new_tokens: int = 200,
        n: int | None = None,
        key: int | jax.Array = 0,
        stop: str | Sequence[str] | None = None,
        labels: int | Sequence[int] | None = None,
        after: Reading | None = None,
        **settings: Any,
    ) -> Any:
        """Continue a prompt, or each of several.

        Args:
            prompt: a text (or the integers of an integer tokenizer), or a list of them.
            max_new_tokens: tokens to generate at most.
            n: texts a prompt; None is one, not in a list.
            key: a seed or a jax key; the text is a function of it. Each text of a list has its
                own, folded from it by the place in the list.
            stop: end a text before the first of these strings.
            labels: what a conditioned model writes about; one, or one a prompt.
            after: continue from a reading (see `read`), one row for all prompts or one each.
                Penalties know only what is said from there on.
            **settings: fields of `SamplingParams`: `temperature=0.5`, `top_p=0.9`, ...; a list
                holds one value a prompt, or, beside a single prompt, makes one text a value.

        Returns:
            The new text alone: a str, or a list for several prompts or values; with `n` a list of
            n texts in the place of each.

        Raises:
            UserError: see `SamplingParams`.
        """
        samples = self.sample(
            prompt,
            max_new_tokens=max_new_tokens,
            n=n,
            key=key,
            stop=stop,
            labels=labels,
            after=after,
            logprobs=False,
            **settings,
        )
        return texts_of(samples)

    def sample(
        self,
        prompt: Prompts = "",
        *,
        max_new_tokens: int = 200,
        n: int | None = None,
        key: int | jax.Array = 0,
        stop: str | Sequence[str] | None = None,
        labels: int | Sequence[int] | None = None,
        after: Reading | None = None,
        logprobs: bool = True,
        **settings: Any,
    ) -> Any:
        """As `generate`, with `Sample`s (tokens and log-probabilities) in the place of texts."""
        request = make_request(self.tokenizer, prompt, settings, n, labels, after)
        lines = [Line(self.tokenizer, request.context[row], stop) for row in request.rows]
        for made in self._made(request, key, max_new_tokens, _PIECE if stop else None, logprobs):
            for row, line in enumerate(lines):
                line.push(made, row)
            if all(line.finished for line in lines):
                break
        samples: list[Any] = [line.sample(logprobs) for line in lines]
        if n is not None:
            samples = [samples[first : first + n] for first in range(0, len(samples), n)]
        return samples[0] if request.single else samples

    def stream(
        self,
        prompt: Prompt = "",
        *,
        max_new_tokens: int | None = None,
        chunk: int = 16,
        key: int | jax.Array = 0,
        stop: str | Sequence[str] | None = None,
        labels: int | None = None,
        after: Reading | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """Yield the text of `generate` as it is made, in constant memory.

        Args:
            prompt: one text.
            max_new_tokens: None goes on without end (until a stop).
            chunk: tokens made in one dispatch.
            key: as in `generate`, and so are the others.
            stop: see there.
            labels: see there.
            after: see there.
            **settings: see there.
        """
        if chunk < 1:
            raise UserError(f"`chunk` must be at least 1, got {chunk}")
        request = make_request(self.tokenizer, prompt, settings, None, labels, after)
        if not request.single:
            raise UserError("`stream` takes one prompt and one value a setting; use `generate`")
        line = Line(self.tokenizer, request.context[0], stop)
        return self._stream(request, key, max_new_tokens, chunk, line)

    def _stream(
        self, request: Request, key: Any, max_new_tokens: int | None, chunk: int, line: Line
    ) -> Iterator[str]:
        for made in self._made(request, key, max_new_tokens, chunk, logprobs=False):
            if text := line.push(made, 0):
                yield text
            line.forget()
            if line.finished:
                break
        if rest := line.close():
            yield rest

    def read(
        self, prompt: Prompts = "", *, labels: Any = None, after: Reading | None = None
    ) -> Reading:
        """Read a prompt (or several, one a row) and keep what the model knows then.

        `generate(after=reading)` continues from it; `jaxgen.generation.carry` forks, mixes, saves
        and loads it.
        """
        request = make_request(self.tokenizer, prompt, {}, None, labels, after)
        state, count = self._read(request), len(request.prompts)
        padded = state.token.shape[0]
        return jax.tree.map(
            lambda x: x[:count] if np.ndim(x) and x.shape[0] == padded else x,
            Reading(state.carry, state.token),
        )

    def beam_search(
        self,
        prompt: Prompts = "",
        *,
        num_beams: int = 4,
        n: int | None = None,
        max_new_tokens: int = 100,
        sampled: bool = False,
        key: int | jax.Array = 0,
        labels: Any = None,
        after: Reading | None = None,
        **options: Any,
    ) -> Any:
        """The best continuations that a beam search finds, or with `sampled` different random ones.

        Args:
            prompt: a text, or a list of them.
            num_beams: width of the beam.
            n: texts a prompt, at most `num_beams`; None is the best alone, not in a list.
            max_new_tokens: tokens of a text at most.
            sampled: draw without replacement (`stochastic_beam_search`) instead.
            key: for `sampled`.
            labels: as in `generate`.
            after: as in `generate`.
            **options: of `jaxgen.generation.beam.beam_search`: `stop_tokens`, `length_penalty`,
                `num_groups`, `diversity_penalty`.

        Returns:
            A `Beam` for a prompt; with `n` a list of them; for a list of prompts a list of those.
        """
        if n is not None and not 1 <= n <= num_beams:
            raise UserError(f"`n` must be in [1, num_beams = {num_beams}], got {n}")
        request = make_request(self.tokenizer, prompt, {}, None, labels, after)
        state = self._read(request)
        batch = state.token.shape[0]
        shared = {"max_new_tokens": max_new_tokens, **options}
        place = (Prepared(self.step_fn), self._prepared, state.carry, state.token[:, None], None)
        if sampled:
            keys = _key(key, len(request.prompts), batch)
            out: Any = stochastic_beam_search(*place, keys, num_samples=num_beams, **shared)
            ranks = out.gumbels
        else:
            out = beam_search(*place, num_beams=num_beams, **shared)
            ranks = out.scores
        tokens, lengths, logprobs, scores = jax.device_get(
            (out.tokens, out.lengths, out.logprobs, ranks)
        )
        rows = []
        for row, context in enumerate(request.context):
            beams = []
            for place_ in range(n or 1):
                ids = tokens[row, place_, : lengths[row, place_]].tolist()
                text = continuation(self.tokenizer, context, ids)
                beams.append(
                    Beam(text, ids, float(logprobs[row, place_]), float(scores[row, place_]))
                )
            rows.append(beams if n is not None else beams[0])
        return rows[0] if request.single else rows

    def score(
        self,
        text: Prompts,
        *,
        prompt: Prompt = "",
        labels: Any = None,
        after: Reading | None = None,
    ) -> Any:
        """Log-probability in nats of each token of a text, float32 [N]; a list for a list.

        Args:
            text: what to score.
            prompt: what stands before it; without one, what an empty prompt starts from.
            labels: as in `generate`.
            after: as in `generate`.
        """
        single = is_one(text)
        if not single and not len(text):
            raise UserError("`text` must hold at least one text, got an empty list")
        texts = [self.tokenizer.encode(x) for x in ([text] if single else text)]
        prompts = [prompt] * len(texts) if len(texts) > 1 else prompt
        reading = self.read(prompts, labels=labels, after=after)
        reading = programs.pad_tree(reading, programs.batch_bucket(len(texts)))
        token = np.asarray(reading.token)
        lines = [np.append(token[row], ids) for row, ids in enumerate(texts)]
        pieces, carry = [], reading.carry
        for window in programs.windows(lines, len(token), overlap=1):
            logprobs, carry = score_checked(
                self.params, carry, *window, step_fn=self.step_fn, prefill_fn=self.prefill_fn
            )
            pieces.append(np.asarray(logprobs)[:, : int(window[1].max()) - 1])
        scores = np.concatenate(pieces, axis=1)
        found = [scores[row, : len(ids)] for row, ids in enumerate(texts)]
        return found[0] if single else found

    def perplexity(self, text: Prompts, **options: Any) -> Any:
        """`exp` of the mean negative log-probability of a text's tokens; a list for a list.

        Takes what `score` takes. UserError for a text without tokens.
        """
        scores = self.score(text, **options)
        single = isinstance(scores, np.ndarray)
        if not all(len(x) for x in ([scores] if single else scores)):
            raise UserError("`text` must hold at least one token to have a perplexity")
        found = [
            float(np.exp(-np.mean(x, dtype=np.float64))) for x in ([scores] if single else scores)
        ]
        return found[0] if single else found

    def _made(
        self,
        request: Request,
        key: Any,
        max_new_tokens: int | None,
        piece: int | None,
        logprobs: bool,
    ) -> Iterator[programs.Piece]:
        """Pieces of text as they are made, on the host."""
        remaining = math.inf if max_new_tokens is None else max_new_tokens
        if remaining < 1:
            raise UserError(f"`max_new_tokens` must be at least 1, got {max_new_tokens}")
        rows = len(request.rows)
        batch = programs.batch_bucket(rows)
        sampling = programs.pad_settings(request.sampling, rows, batch)
        ends = sampling.can_stop or sampling.no_repeat_ngram is not None
        largest = min(piece or programs.LARGEST_TEXT, programs.LARGEST_TEXT)
        count = int(min(remaining, largest))

        def run(program: Callable, *arguments: Any) -> Any:
            extent = programs.Extent(
                0 if logprobs else None,
                ends,
                devices=programs.devices_for(batch, self.params),
            )
            return programs.call(
                program,
                *arguments,
                np.int32(count),
                model=self._model,
                extent=extent,
                sampling=sampling,
                vocab_size=self.tokenizer.vocab_size,
            )

        index = programs.pad_rows(request.rows, batch)
        question = (self._prompt(request), index, np.int32(rows), _key(key, rows, batch), sampling)
        program = programs.begin_and_extend
        state, keys, made = run(program, self.params, self._prepared, *question)
        while True:
            remaining -= count
            yield jax.tree.map(np.asarray, made)
            if remaining < 1:
                return
            count = int(min(remaining, largest))
            state, made = run(programs.extend, self._prepared, state, keys, sampling)

    def _prompt(self, request: Request) -> programs.Prompt:
        """The last stretch of the prompts, with the ones before it read; padded rows."""
        batch = programs.batch_bucket(len(request.prompts))
        after, labels = request.after, request.labels
        if after is not None:
            after = programs.pad_tree(after, batch)
        if labels is not None:
            labels = programs.pad_rows(labels, batch)
        settings = request.sampling.map(lambda name, value: np.int32(0))
        *others, last = programs.windows(request.prompts, batch)
        for window in others:
            prompt = programs.Prompt(after, labels, *window)
            after = programs.begin(self.params, prompt, settings, model=self._model)
        return programs.Prompt(after, labels, *last)

    def _read(self, request: Request) -> DecodeState:
        """The prompts, read; as many rows as there are prompts, padded."""
        settings = request.sampling.map(lambda name, value: np.int32(0))
        return programs.begin(self.params, self._prompt(request), settings, model=self._model)

    @cached_property
    def _model(self) -> programs.Model:
        return programs.Model(self.step_fn, self.prefill_fn, self.initial_carry)

    @cached_property
    def _prepared(self) -> PyTree:
        """Parameters of the loop, rearranged once."""
        if not hasattr(self.step_fn, "prepare"):
            return self.params
        return jax.jit(prepared, static_argnums=0)(self.step_fn, self.params)


def _key(key: Any, rows: int, batch: int) -> Any:
    """A seed, one key, or one key a row padded to the batch."""
    key = check_key(key, rows)
    if key.ndim == 0 or rows == batch:
        return key
    return jnp.concatenate([key, jnp.repeat(key[:1], batch - rows)])
