"""`Translator`: a trained encoder-decoder with texts in and texts out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Unpack, overload

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation import programs
from jaxgen.generation.decoding import PrefillFn, StepFn
from jaxgen.generation.lines import Ending
from jaxgen.generation.requests import Request, make_request
from jaxgen.generation.runner import Runner
from jaxgen.generation.score_text import score_rows
from jaxgen.generation.sources import (
    Ids,
    SourceBatch,
    SourceReader,
    padded,
    source_batches,
    source_bucket,
)
from jaxgen.generation.translations import (
    Decoding,
    TranslateOptions,
    Translation,
    attended,
    read_options,
)
from jaxgen.types import Array, Float, Int, PyTree, UInt32
from jaxgen.windows import WINDOW, windows

AttentionFn = Callable[[PyTree, Any, Any, Any], Float[Array, "B T S"]]
"""`attention_fn(params, sources[B, S], lengths[B], targets[B, T + 1])`: the weights of the source's
tokens when each of the last T target tokens is foretold."""
Prefix = str | Sequence[str] | None
Scores = Float[np.ndarray, "_"]
Several = Sequence[str]


@dataclass(frozen=True, eq=False)
class Translator:
    """A trained encoder-decoder with its tokenizers.

    What is made of a text does not depend on the texts beside it, but for the rounding of float32.

    For research code, the decoder as `jaxgen.generate`, `beam_search` and `score` take it:

        sources = translator.encode(["a text", "another"])
        carry = translator.initial_carry(translator.params, 2, sources)
        carry, logits = translator.step_fn(translator.params, carry, tokens)

    Attributes:
        params: the model's parameters.
        config: the settings it was trained with; not used here.
        source_tokenizer: `encode_many(texts)`: the tokens of each, and a `Counter` of what it does
            not know; no other method is used.
        tokenizer: of the translations, as that of a `TextModel`, with `encode_many` and `eos_id`
            too. `start_id`, <bos>, begins each and `eos_id` ends it; neither is part of the text.
        step_fn: `step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])`.
        prefill_fn: as in `jaxgen.generate`; None reads prefixes step by step.
        initial_carry: `initial_carry(params, batch_size, (sources[B, S], lengths[B]))`.
        max_source_length: tokens of a source that are read.
        attention_fn: the attention weights, see `AttentionFn`; None where there are none.
    """

    params: PyTree
    config: Any
    source_tokenizer: Any
    tokenizer: Any
    step_fn: StepFn
    prefill_fn: PrefillFn | None
    initial_carry: programs.InitialCarry
    max_source_length: int
    attention_fn: AttentionFn | None = None

    @overload
    def translate(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        n_best: None = None,
        prefix: str | None = None,
        **options: Unpack[TranslateOptions],
    ) -> str: ...
    @overload
    def translate(
        self,
        texts: Several,
        *,
        n_best: None = None,
        prefix: Prefix = None,
        **options: Unpack[TranslateOptions],
    ) -> list[str]: ...
    @overload
    def translate(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        n_best: int,
        prefix: str | None = None,
        **options: Unpack[TranslateOptions],
    ) -> list[Translation]: ...
    @overload
    def translate(
        self,
        texts: Several,
        *,
        n_best: int,
        prefix: Prefix = None,
        **options: Unpack[TranslateOptions],
    ) -> list[list[Translation]]: ...
    def translate(
        self, texts: Any, *, n_best: int | None = None, prefix: Prefix = None, **options: Any
    ) -> Any:
        """Translate a text, or each of several.

        Among several texts an empty one has an empty translation, so that the answers can be put
        beside the texts; a single text that is empty is refused.

        Args:
            texts: a text, or a list of them. Tokens beyond `max_source_length` are left out.
            n_best: different translations of each text, at most the beam's width, and fewer where
                fewer are found; None is the best alone, as a text.
            prefix: what the translations begin with; one for all, or one a text.
            **options: see `TranslateOptions`: by default a beam search of width 4.

        Returns:
            A str, or a list of them in the order of the texts; with `n_best` a list of
            `Translation`, best first, in the place of each.

        Raises:
            UserError: the single text is empty, something is no text, the target vocabulary lacks a
                part of the prefix, an option is unknown, out of its range or of no use, or the
                model's logits are NaN.

        Warns:
            SourceWarning: sources were cut, or hold what the vocabulary lacks; with how often.
        """
        if not isinstance(texts, str):
            return list(self.stream(list(texts), n_best=n_best, prefix=prefix, **options))
        if not texts.strip():
            raise UserError(
                f"the text to translate is empty, got {texts!r:.20}; give one with words (in a "
                "list, an empty text has an empty translation)"
            )
        (found,) = self.stream([texts], n_best=n_best, prefix=prefix, **options)
        return found

    @overload
    def stream(
        self,
        texts: Iterable[str],
        *,
        n_best: None = None,
        prefix: Prefix = None,
        window: int = WINDOW,
        max_wait: float | None = None,
        **options: Unpack[TranslateOptions],
    ) -> Iterator[str]: ...
    @overload
    def stream(
        self,
        texts: Iterable[str],
        *,
        n_best: int,
        prefix: Prefix = None,
        window: int = WINDOW,
        max_wait: float | None = None,
        **options: Unpack[TranslateOptions],
    ) -> Iterator[list[Translation]]: ...
    def stream(
        self,
        texts: Iterable[str],
        *,
        n_best: int | None = None,
        prefix: Prefix = None,
        window: int = WINDOW,
        max_wait: float | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Yield the translations of any number of texts, in their order and in bounded memory.

        Texts are read a window at a time, when the first translation of it is asked for, and
        batched by length within it.

        Args:
            texts: they may be without end.
            n_best: as in `translate`.
            prefix: as in `translate`.
            window: texts that are held at once.
            max_wait: a window ends early where its texts take longer than this many seconds to
                come, so that a slow source is answered text by text; None always fills it.
            **options: as in `translate`.

        Raises:
            UserError: as `translate`, with the call where it is for the options.
        """
        if window < 1:
            raise UserError(f"`window` must be at least 1, got {window}")
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise UserError(f"`texts` must be several texts, such as a list, got {texts!r:.80}")
        decoding = self.decoding(n_best, **options)
        prefixes = self.prefixes(prefix, len(texts) if isinstance(texts, Sequence) else None)
        return self._stream(texts, prefixes, decoding, window, max_wait)

    def encode(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "N S"], Int[np.ndarray, "N"]]:
        """Tokens, zero beyond the length, and lengths of some texts, as `initial_carry` takes them.

        S is the padded length of the longest. Warns as `translate` does.

        Raises:
            UserError: there is no text, or one without tokens.
        """
        reader = self.reader()
        sources = reader.read(texts)
        reader.warn()
        lengths = np.array([len(ids) for ids in sources], np.int32)
        if not lengths.all() or not len(lengths):
            raise UserError("`texts` must hold texts with words, got an empty one; leave it out")
        return padded(sources, source_bucket(int(lengths.max()), self.max_source_length)), lengths

    @overload
    def score(  # type: ignore[overload-overlap]
        self, sources: str, targets: str, *, batch_size: int = 64
    ) -> Scores: ...
    @overload
    def score(
        self, sources: Several, targets: Several, *, batch_size: int = 64
    ) -> list[Scores]: ...
    def score(self, sources: Any, targets: Any, *, batch_size: int = 64) -> Any:
        """Log-probability in nats of each token of given translations and of their <eos>.

        Args:
            sources: a text, or a list of them.
            targets: its translation, or as many.
            batch_size: texts that are read together.

        Returns:
            float32 [N + 1] for N target tokens; a list of these for lists.

        Raises:
            UserError: there are not as many targets as sources, or a source is empty.
        """
        if isinstance(sources, str) != isinstance(targets, str):
            raise UserError("`sources` and `targets` must be two texts, or two lists of texts")
        if isinstance(sources, str):
            return self.score([sources], [targets], batch_size=batch_size)[0]
        if len(sources) != len(targets):
            raise UserError(
                f"`targets` must hold one text for each of the {len(sources)} sources, got "
                f"{len(targets)}"
            )
        reader = self.reader()
        rows = reader.read(sources)
        if empty := [number for number, ids in enumerate(rows, 1) if not len(ids)]:
            raise UserError(f"source {empty[0]} is empty; leave it and its target out")
        found: list[Any] = [None] * len(rows)
        ids, unknown = self.tokenizer.encode_many(list(targets))
        reader.unknown += unknown
        reader.warn()
        ids = [np.append(row, np.int32(self.tokenizer.eos_id)) for row in ids]
        for batch in source_batches(rows, self.max_source_length, 1, batch_size):
            state = self._runner.prompt_state(self._request(batch, [""] * len(batch.places)))
            scores = score_rows(self._runner, state, [ids[place] for place in batch.places])
            for place, score in zip(batch.places.tolist(), scores, strict=True):
                found[place] = score
        return found

    def _stream(
        self,
        texts: Iterable[str],
        prefixes: list[str],
        decoding: Decoding,
        window: int,
        max_wait: float | None,
    ) -> Iterator[Any]:
        reader, done = self.reader(), 0
        for some in windows(texts, window, max_wait):
            sources = reader.read(some)
            own = prefixes * len(some) if len(prefixes) == 1 else prefixes[done:]
            for found in self.decode_sources(sources, own, decoding, first=done):
                yield found if decoding.n_best is not None else found[0].text
            done += len(some)
        reader.warn()

    def decode_sources(
        self, sources: Sequence[Ids], prefixes: Sequence[str], decoding: Decoding, *, first: int = 0
    ) -> list[list[Translation]]:
        """The translations of sources that are read, best first; warns of nothing.

        Args:
            sources: tokens of each, as `reader().read` gives them.
            prefixes: one each.
            decoding: how, see `jaxgen.generation.translations.read_options`.
            first: sources that came before, which number the keys of random texts.
        """
        found = [[Translation("", 0.0, [], [])] for _ in sources]
        options, width = decoding.options, decoding.width
        size = options.get("batch_size", 64)
        chance = decoding.kind in ("random", "mbr")
        for batch in source_batches(sources, self.max_source_length, width, size):
            own = [prefixes[place] for place in batch.places]
            repeats = None if decoding.kind == "beam" else width
            request = self._request(batch, own, decoding.settings, repeats)
            keys = None
            if chance:
                numbers = (first + batch.places)[:, None] * width + np.arange(width)
                keys = _keys_of(decoding.key(), numbers.reshape(-1).astype(np.uint32))
            most = options.get("max_new_tokens") or 2 * batch.tokens.shape[1] + 32
            hypotheses = decoding.hypotheses(self._runner, self.tokenizer, request, keys, most)
            if options.get("attention") and self.attention_fn is not None:
                weights_of = partial(self.attention_fn, self.params)
                hypotheses = attended(weights_of, batch, request.context, hypotheses)
            for place, best in zip(batch.places.tolist(), hypotheses, strict=True):
                found[place] = best
        return found

    def _request(
        self,
        batch: SourceBatch,
        prefixes: Sequence[str],
        settings: dict[str, Any] | None = None,
        repeats: int | None = None,
    ) -> Request:
        request = make_request(
            self.tokenizer,
            list(prefixes),
            settings or {},
            n=repeats,
            ending=Ending(self.tokenizer.eos_id),
            whole_texts=True,
        )
        return replace(request, condition=(batch.tokens, batch.lengths))

    def decoding(self, n_best: int | None, **options: Any) -> Decoding:
        """How `translate` decodes with these options; UserError for one that is wrong."""
        found = read_options(options, n_best, self.step_fn, self.tokenizer.vocab_size)
        if options.get("attention"):
            self._check_attention()
        return found

    def prefixes(self, prefix: Any, count: int | None) -> list[str]:
        """One for all texts, or one each; UserError where they cannot be."""
        one = prefix is None or isinstance(prefix, str)
        prefixes = [prefix or ""] if one else list(prefix)
        if not one and len(prefixes) != count:
            raise UserError(
                "`prefix` must be one text for all, or one for each of a list of texts, got "
                f"{len(prefixes)} for {'a stream' if count is None else count}"
            )
        for text in prefixes:
            unknown = self.tokenizer.encode_many([text])[1]
            if unknown:
                shown = ", ".join(map(repr, sorted(unknown)))
                raise UserError(
                    f"the prefix {text!r:.80} holds {shown}, which the vocabulary of the "
                    "translations lacks; write it as the training targets do"
                )
        return prefixes

    def reader(self) -> SourceReader:
        """What reads sources, and counts what it leaves out."""
        return SourceReader(self.source_tokenizer, self.max_source_length)

    def _check_attention(self) -> None:
        if self.attention_fn is None:
            raise UserError(
                "`attention` asks for weights, and this model has no attention; leave it out, or "
                "train a model with `model.attention`"
            )

    @cached_property
    def _runner(self) -> Runner:
        model = programs.Model(self.step_fn, self.prefill_fn, self.initial_carry)
        return Runner(model, self.params)


@jax.jit
def _keys_of(key: Array, numbers: UInt32[Array, "N"]) -> Array:
    """One key for each number."""
    return jax.vmap(partial(jax.random.fold_in, key))(numbers)
