"""`TextModel`: a trained language model with strings in and strings out."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Unpack, overload

import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation import programs
from jaxgen.generation.beam_text import BeamEach, BeamOne, check_beam_options, search
from jaxgen.generation.carry import PromptState
from jaxgen.generation.constrained_text import TextAutomaton
from jaxgen.generation.decoding import PrefillFn, StepFn
from jaxgen.generation.lines import Beam, Ending, Line, Sample, texts_of
from jaxgen.generation.requests import (
    Each,
    One,
    Options,
    Prompt,
    Prompts,
    ReadEach,
    ReadOne,
    Request,
    SampleEach,
    SampleOne,
    SampleOptions,
    check_options,
    is_one,
    make_request,
)
from jaxgen.generation.runner import Runner
from jaxgen.generation.sample_text import sample_texts
from jaxgen.generation.score_text import score_rows
from jaxgen.types import Float, PyTree

Scores = Float[np.ndarray, "N"]


@dataclass(frozen=True, eq=False)
class TextModel:
    """A language model with its tokenizer.

    Attributes:
        params: the model's parameters.
        config: the settings it was trained with; not used here.
        tokenizer: `encode(text)`, `decode(ids)`, `decoder()` (with `push(ids)` and `finish()`),
            `start_id` (what an empty prompt starts from), `vocab_size`; where there are,
            `special_ids` (tokens that are not generated) and, for stop strings with beams,
            `token_texts` (see `stop_automaton`).
        step_fn: `step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])`.
        prefill_fn: as in `jaxgen.generate`; None reads prompts step by step.
        initial_carry: `initial_carry(params, batch_size, condition)`; the condition is the labels
            [B], or None. Every leaf has the batch first, or is a scalar that all rows share.
        num_labels: labels that the model is conditioned on, the null label as the last; 0 is none.
        labels: their names by id; the null label has none. Without names, labels are integers.
        end_token: of a model of whole texts: ends a text by itself, without being part of it. A
            prompt is then the beginning of a text. None: a prompt and its text are parts of one.
        constraint: what new texts are held to; see `constrained_model`.
    """

    params: PyTree
    config: Any
    tokenizer: Any
    step_fn: StepFn
    prefill_fn: PrefillFn | None
    initial_carry: programs.InitialCarry
    num_labels: int = 0
    labels: tuple[str, ...] = ()
    end_token: int | None = None
    constraint: TextAutomaton | None = None

    @overload
    def generate(self, prompt: Prompt = "", *, n: None = None, **options: Unpack[One]) -> str: ...
    @overload
    def generate(
        self, prompt: Prompts, *, n: None = None, **options: Unpack[Each]
    ) -> list[str]: ...
    @overload
    def generate(self, prompt: Prompt = "", *, n: int, **options: Unpack[One]) -> list[str]: ...
    @overload
    def generate(self, prompt: Prompts, *, n: int, **options: Unpack[Each]) -> list[list[str]]: ...
    @overload
    def generate(
        self, prompt: Prompt = "", *, n: None = None, **options: Unpack[Each]
    ) -> list[str]: ...
    def generate(self, prompt: Any = "", *, n: int | None = None, **options: Any) -> Any:
        """Continue a prompt, or each of several.

        Args:
            prompt: a text (or the integers of an integer tokenizer), or a list of them.
            n: texts a prompt; None is one, not in a list.
            **options: `max_new_tokens=200`, `key=0`, `stop`, `label`, `guidance`, `after` and
                `allow_special=False`, described at `jaxgen.generation.requests.SharedOptions`; and
                the fields of `SamplingParams`: `temperature=0.5`, `top_p=0.9`, ...; a list holds
                one value a prompt, or, beside a single prompt, makes one text a value.

        Returns:
            The new text alone: a str, or a list for several prompts or values; with `n` a list of
            n texts in the place of each.

        Raises:
            UserError: an option is unknown or out of its range (see `SamplingParams`), or the
                model's logits are NaN.
        """
        check_options(options, Options.__annotations__)
        return texts_of(self._sample(prompt, n, options, logprobs=False))

    @overload
    def sample(self, prompt: Prompt = "", **options: Unpack[SampleOne]) -> Sample: ...
    @overload
    def sample(self, prompt: Prompts, **options: Unpack[SampleEach]) -> list[Sample]: ...
    @overload
    def sample(
        self, prompt: Prompt = "", *, n: int, **options: Unpack[SampleOne]
    ) -> list[Sample]: ...
    @overload
    def sample(
        self, prompt: Prompts, *, n: int, **options: Unpack[SampleEach]
    ) -> list[list[Sample]]: ...
    def sample(self, prompt: Any = "", *, n: int | None = None, **options: Any) -> Any:
        """As `generate`, with `Sample`s in the place of texts.

        Their log-probabilities are None with `logprobs=False`, which spares computing them.
        """
        check_options(options, SampleOptions.__annotations__)
        return self._sample(prompt, n, options, options.get("logprobs", True))

    def _sample(self, prompt: Any, n: int | None, options: dict[str, Any], logprobs: bool) -> Any:
        request = self._request(prompt, options, n)
        samples: list[Any] = sample_texts(
            self._runner_of(request),
            self.tokenizer,
            request,
            options.get("key", 0),
            options.get("max_new_tokens", 200),
            stop=options.get("stop"),
            logprobs=logprobs,
        )
        if n is not None:
            samples = [samples[first : first + n] for first in range(0, len(samples), n)]
        return samples[0] if request.single else samples

    def stream(
        self,
        prompt: Prompt = "",
        *,
        max_new_tokens: int | None = None,
        chunk: int = 16,
        **options: Any,
    ) -> Iterator[str]:
        """Yield the text of `generate` as it is made, in constant memory.

        Args:
            prompt: one text.
            max_new_tokens: None goes on without end (until a stop).
            chunk: tokens decoded in one dispatch.
            **options: as in `generate`.
        """
        if chunk < 1:
            raise UserError(f"`chunk` must be at least 1, got {chunk}")
        check_options(options, Options.__annotations__)
        request = self._request(prompt, options)
        if not request.single:
            raise UserError("`stream` takes one prompt and one value a setting; use `generate`")
        stop = options.get("stop")
        line = Line(self.tokenizer, request.context[0], stop, request.ending)
        key = options.get("key", 0)
        runner = self._runner_of(request)
        return _stream(runner.decode(request, key, max_new_tokens, chunk, False), line)

    def prefill(self, prompt: Any = "", **options: Any) -> PromptState:
        """Read a prompt (or several, one a row) and keep what the model knows then.

        `generate(after=state)` continues from it; `jaxgen.generation.carry` forks, mixes, saves
        and loads it.

        Args:
            prompt: one or several.
            **options: `label`, `guidance` and `after`, as in `generate`. What continues from the
                state keeps its labels and their weights.
        """
        check_options(options, ReadEach.__annotations__)
        request = self._request(prompt, options)
        return self._runner_of(request).prompt_state(request)

    @overload
    def beam_search(
        self, prompt: Prompt = "", *, n: None = None, **options: Unpack[BeamOne]
    ) -> Beam: ...
    @overload
    def beam_search(
        self, prompt: Prompts, *, n: None = None, **options: Unpack[BeamEach]
    ) -> list[Beam]: ...
    @overload
    def beam_search(
        self, prompt: Prompt = "", *, n: int, **options: Unpack[BeamOne]
    ) -> list[Beam]: ...
    @overload
    def beam_search(
        self, prompt: Prompts, *, n: int, **options: Unpack[BeamEach]
    ) -> list[list[Beam]]: ...
    @overload
    def beam_search(
        self, prompt: Prompt = "", *, n: None = None, **options: Unpack[BeamEach]
    ) -> list[Beam]: ...
    def beam_search(self, prompt: Any = "", *, n: int | None = None, **options: Any) -> Any:
        """The best continuations that a beam search finds, or with `sampled` different random ones.

        Args:
            prompt: a text, or a list of them.
            n: different texts a prompt, at most `num_beams`, and fewer where the search finds
                fewer; None is the best alone, not in a list.
            **options: `num_beams=4` and `max_new_tokens=100`; `stop`, `label`, `guidance`, `after`
                and `allow_special` as in `generate`; `stop_tokens`, `min_new_tokens`,
                `banned_tokens`, `no_repeat_ngram`, `length_penalty`, `length_offset`,
                `coverage_penalty`, `patience`, `num_groups` and `diversity_penalty` of
                `jaxgen.generation.beam.beam_search`; `sampled=True` with a
                `key` draws texts without replacement (`stochastic_beam_search`). With `stop` a text
                ends, in the search too, with the token that completes a stop string.

        Returns:
            A `Beam` for a prompt; with `n` a list of them; for a list of prompts a list of those.

        Raises:
            UserError: an option is unknown, out of its range or of no use for a search.
        """
        check_beam_options(options, n)
        request = self._request(prompt, options)
        rows = search(self._runner_of(request), self.tokenizer, request, options, n or 1)
        found: list[Any] = rows if n is not None else [beams[0] for beams in rows]
        return found[0] if request.single else found

    @overload
    def score(self, text: Prompt, *, prompt: Prompt = "", **options: Unpack[ReadOne]) -> Scores: ...
    @overload
    def score(
        self, text: Prompts, *, prompt: Prompt = "", **options: Unpack[ReadEach]
    ) -> list[Scores]: ...
    @overload
    def score(
        self, text: Prompt, *, prompt: Prompt = "", **options: Unpack[ReadEach]
    ) -> list[Scores]: ...
    def score(self, text: Any, *, prompt: Prompt = "", **options: Any) -> Any:
        """Log-probability in nats of each token of a text, float32 [N]; a list for a list.

        Args:
            text: what to score.
            prompt: what stands before it; without one, what an empty prompt starts from.
            **options: `label`, `guidance` and `after`, as in `generate`; several of them beside
                one text give one answer each.
        """
        single = is_one(text)
        if not single and not len(text):
            raise UserError("`text` must hold at least one text, got an empty list")
        check_options(options, ReadEach.__annotations__)
        texts = [self.tokenizer.encode(x) for x in ([text] if single else text)]
        request = self._request([prompt] * len(texts) if len(texts) > 1 else prompt, options)
        if len(texts) == 1:
            texts *= len(request.rows)
        runner = self._runner_of(request)
        found = score_rows(runner, runner.prompt_state(request), texts)
        return found[0] if single and request.single else found

    @overload
    def perplexity(
        self, text: Prompt, *, prompt: Prompt = "", **options: Unpack[ReadOne]
    ) -> float: ...
    @overload
    def perplexity(
        self, text: Prompts, *, prompt: Prompt = "", **options: Unpack[ReadEach]
    ) -> list[float]: ...
    @overload
    def perplexity(
        self, text: Prompt, *, prompt: Prompt = "", **options: Unpack[ReadEach]
    ) -> list[float]: ...
    def perplexity(self, text: Any, **options: Any) -> Any:
        """`exp` of the mean negative log-probability of a text's tokens; a list for a list.

        Takes what `score` takes. UserError for a text without tokens.
        """
        scores = self.score(text, **options)
        several = isinstance(scores, list)
        rows = scores if several else [scores]
        if not all(len(x) for x in rows):
            raise UserError("`text` must hold at least one token to have a perplexity")
        found = [float(np.exp(-np.mean(x, dtype=np.float64))) for x in rows]
        return found if several else found[0]

    def _request(self, prompt: Any, options: dict[str, Any], n: int | None = None) -> Request:
        end = self.end_token
        if self.constraint is not None and self.constraint.end_token is not None:
            end = self.constraint.end_token
        return make_request(
            self.tokenizer,
            prompt,
            options,
            n=n,
            num_labels=self.num_labels,
            labels=self.labels,
            ending=Ending(end, whole=self.constraint is not None),
            whole_texts=self.end_token is not None,
        )

    def _runner_of(self, request: Request) -> Runner:
        return self._runner.guided if request.guided else self._runner

    @cached_property
    def _runner(self) -> Runner:
        model = programs.Model(self.step_fn, self.prefill_fn, self.initial_carry)
        return Runner(model, self.params, self.constraint)


def _stream(decoded: Iterator[programs.DecodedChunk], line: Line) -> Iterator[str]:
    for chunk in decoded:
        if text := line.push(chunk, 0):
            yield text
        line.forget()
        if line.finished:
            break
    if rest := line.close():
        yield rest
