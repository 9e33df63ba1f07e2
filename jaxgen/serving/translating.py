"""A translator behind a queue: the texts of many clients that ask for the same search, together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.generation.sources import source_bucket
from jaxgen.generation.translations import Translation
from jaxgen.generation.translator import Translator
from jaxgen.serving.gather import Gatherer

SIZES = (1, 4, 16)
"""Texts of one padded length that are decoded together; copies fill a batch up, so that few
programs are compiled. A search is one dispatch, which nothing interrupts."""


class _Source(NamedTuple):
    tokens: np.ndarray
    prefix: str


class TranslatorService(Gatherer):
    """Translates texts; the answers are those of `Translator.translate`, whoever else is served."""

    def __init__(self, translator: Translator, *, queue: int = 1_000) -> None:
        """Serve a translator; `queue` texts wait at most, over all requests."""
        super().__init__(most=SIZES[-1], queue=queue)
        self.translator = translator

    def warm_up(self) -> None:
        """Compile the default search, with its attention; other widths wait until asked for."""
        model, length = self.translator, 1
        options = self._options({"attention": model.attention_fn is not None})
        most = model.max_source_length
        while length <= most:
            source = _Source(np.zeros(length, np.int32), "")
            for size in SIZES:
                self.run(tuple(sorted(options.items())), [source] * size)
            length = source_bucket(length, most) + 1

    async def translate(
        self, texts: Sequence[str], *, prefix: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """What `POST /v1/translate` answers but for the model's name.

        Args:
            texts: at least one; an empty one has an empty translation.
            prefix: what each translation begins with.
            **options: `n_best`, `beam_size`, `length_penalty` and `attention`, as in
                `Translator.translate`; None is what the run sets.

        Raises:
            UserError: an option is out of its range, or the prefix holds what the vocabulary lacks.
            FullError: too many texts wait already.
        """
        model = self.translator
        chosen = self._options(options)
        model.decoding(**chosen)
        (prefix,) = model.prefixes(prefix, None)
        reader = model.reader()
        sources = [_Source(ids, prefix) for ids in reader.read(texts)]
        found = await self.submit(sources, tuple(sorted(chosen.items())))
        data = [
            self._as_object(number, source, best)
            for number, (source, best) in enumerate(zip(sources, found, strict=True))
        ]
        return {"data": data, "warnings": reader.left_out()}

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Options of `Translator.decoding`, with what the run sets by default."""
        options = {"n_best": 1, **{k: value for k, value in given.items() if value is not None}}
        defaults = getattr(self.translator.config, "translation", None)
        if defaults is not None:
            options.setdefault("beam_size", max(defaults.beam_size, options["n_best"]))
            options.setdefault("length_penalty", defaults.length_penalty)
        if not options.get("attention"):
            options.pop("attention", None)
        return options

    def run(self, settings: Any, sources: list[_Source]) -> list[list[Translation]]:
        """The best translations of each source."""
        most = self.translator.max_source_length
        buckets: dict[int, list[int]] = {}
        for place, source in enumerate(sources):
            buckets.setdefault(source_bucket(len(source.tokens), most), []).append(place)
        rows = list(range(len(sources)))
        for places in buckets.values():
            size = next(size for size in SIZES if size >= len(places))
            rows += places[:1] * (size - len(places))
        tokens, prefixes = zip(*(sources[row] for row in rows), strict=True)
        decoding = self.translator.decoding(**dict(settings))
        return self.translator.decode_sources(tokens, prefixes, decoding)[: len(sources)]

    def _as_object(
        self, number: int, source: _Source, best: Sequence[Translation]
    ) -> dict[str, Any]:
        names = self.translator.tokenizer.names
        translations = []
        for one in best:
            shown = {"text": one.text, "score": one.score, "tokens": names(one.tokens)}
            shown["token_logprobs"] = [float(x) for x in one.token_scores]
            if one.attention is not None:
                shown["attention"] = one.attention.round(4).tolist()
            translations.append(shown)
        source_tokens = self.translator.source_tokenizer.names(source.tokens.tolist())
        return {
            "index": number,
            "text": best[0].text,
            "source_tokens": source_tokens,
            "translations": translations,
        }
