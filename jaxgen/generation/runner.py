"""Run the compiled programs for a request: read its prompts, decode its texts chunk by chunk."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation import programs
from jaxgen.generation.carry import PromptState
from jaxgen.generation.checks import check_key
from jaxgen.generation.constrained import ConstrainedParams
from jaxgen.generation.constrained_text import TextAutomaton
from jaxgen.generation.decoding import DecodeState, prepared
from jaxgen.generation.guidance import GuidedInitialCarry, guided
from jaxgen.generation.requests import Request
from jaxgen.types import PyTree


@dataclass(frozen=True, eq=False)
class Runner:
    """A model with its parameters, and the calls of its programs.

    Attributes:
        model: its functions.
        params: its parameters.
        constraint: what new texts are held to, if anything.
        plain: of the model itself, where this one guides it; None where this is it.
    """

    model: programs.Model
    params: PyTree
    constraint: TextAutomaton | None = None
    plain: "Runner | None" = None

    @cached_property
    def guided(self) -> "Runner":
        """The same under guidance: the condition is a `Guidance`."""
        step_fn, prefill_fn = self.model.step_fn, self.model.prefill_fn
        model = programs.Model(
            guided(step_fn),
            None if prefill_fn is None else guided(prefill_fn),
            GuidedInitialCarry(self.model.initial_carry),
        )
        return Runner(model, self.params, self.constraint, plain=self)

    @cached_property
    def prepared(self) -> PyTree:
        """The parameters as the loop that chooses tokens wants them, rearranged once."""
        if self.plain is not None:
            return self.plain.prepared
        params = self.params
        if hasattr(self.model.step_fn, "prepare"):
            params = jax.jit(prepared, static_argnums=0)(self.model.step_fn, params)
        if self.constraint is None:
            return params
        return ConstrainedParams(params, jax.tree.map(jnp.asarray, self.constraint.automaton))

    @cached_property
    def choosing(self) -> programs.Model:
        """The model that loops choose tokens with."""
        return replace(self.model, restricted=self.constraint is not None)

    def prefill(self, request: Request) -> DecodeState:
        """The state after the prompts; as many rows as there are prompts, padded."""
        return self._prefill(request, self._last_segment(request))

    def prompt_state(self, request: Request) -> PromptState:
        """The state after the prompts; as many rows as there are prompts."""
        state, count = self.prefill(request), len(request.prompts)
        found = PromptState(state.carry, state.token)
        return jax.tree.map(lambda x: x[:count] if jnp.ndim(x) else x, found)

    def decode(
        self,
        request: Request,
        key: Any,
        max_new_tokens: int | None,
        chunk: int | None,
        logprobs: bool,
    ) -> Iterator[programs.DecodedChunk]:
        """Chunks of the texts as they are decoded, on the host.

        Args:
            request: what to continue.
            key: as in `generate`.
            max_new_tokens: None goes on without end.
            chunk: tokens of a chunk at most; None: as many as a program decodes.
            logprobs: whether to compute log-probabilities.
        """
        remaining = math.inf if max_new_tokens is None else max_new_tokens
        if remaining < 1:
            raise UserError(f"`max_new_tokens` must be at least 1, got {max_new_tokens}")
        rows = len(request.rows)
        batch = programs.batch_bucket(rows)
        sampling = programs.pad_settings(request.sampling, rows, batch)
        ends = sampling.can_stop or sampling.no_repeat_ngram is not None
        ends |= self.constraint is not None and self.constraint.comes_to_ends
        largest = min(chunk or programs.LARGEST_TEXT, programs.LARGEST_TEXT)
        count = int(min(remaining, largest))

        def run(program: Callable, *arguments: Any) -> Any:
            static = programs.StaticOptions(
                0 if logprobs else None, ends, programs.devices_for(batch, self.params)
            )
            return program(*arguments, np.int32(count), model=self.choosing, static=static)

        index = programs.pad_rows(request.rows, batch)
        prompt = (self._last_segment(request), index, np.int32(rows))
        arguments = (self.params, self.prepared, *prompt, padded_key(key, rows, batch), sampling)
        state, keys, decoded = run(programs.prefill_and_decode, *arguments)
        while True:
            remaining -= count
            yield jax.tree.map(np.asarray, decoded)
            if remaining < 1:
                return
            count = int(min(remaining, largest))
            state, decoded = run(programs.decode_chunk, self.prepared, state, keys, sampling)

    def _last_segment(self, request: Request) -> programs.PromptBatch:
        """The last segment of the prompts, with the ones before it read; padded rows."""
        batch = programs.batch_bucket(len(request.prompts))
        after, condition = (
            None if tree is None else programs.pad_tree(tree, batch)
            for tree in (request.after, request.condition)
        )
        *others, last = programs.prompt_segments(request.prompts, batch)
        for segment in others:
            after = self._prefill(request, programs.PromptBatch(after, condition, *segment))
        return programs.PromptBatch(after, condition, *last)

    def _prefill(self, request: Request, prompt: programs.PromptBatch) -> DecodeState:
        settings = request.sampling.map(lambda name, value: np.int32(0))
        return programs.prefill_prompts(self.params, prompt, settings, model=self.model)


def padded_key(key: Any, rows: int, batch: int) -> Any:
    """A seed, one key, or one key a row padded to the batch."""
    key = check_key(key, rows)
    if key.ndim == 0 or rows == batch:
        return key
    return jnp.concatenate([key, jnp.repeat(key[:1], batch - rows)])
