"""How a translator decodes: its options, checked, and the translations that they give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation import programs
from jaxgen.generation.beam import check_ranking
from jaxgen.generation.beam_text import search
from jaxgen.generation.checks import check_at_least_one, check_key
from jaxgen.generation.coverage import check_has_attention
from jaxgen.generation.hypotheses import Ranking
from jaxgen.generation.mbr import minimum_bayes_risk
from jaxgen.generation.requests import SETTINGS, Request, check_options
from jaxgen.generation.runner import Runner
from jaxgen.generation.sample_text import sample_texts
from jaxgen.generation.sampling import TOKEN_LISTS, SamplingParams
from jaxgen.generation.sources import SourceBatch, padded
from jaxgen.types import Float

MBR_SAMPLES = 32
"""Samples of each text with `mbr=True`."""


class Translation(NamedTuple):
    """One translation of a text."""

    text: str
    """The prefix included."""
    score: float
    """What it is ranked by, the higher the better: the log-probability of its tokens over the
    length penalty, less that of the coverage; with `mbr` the mean utility against the samples."""
    tokens: list[int]
    """Those after the prefix; <eos> is the last, unless the text was cut."""
    token_scores: Sequence[float]
    """Natural log-probability of each of these tokens under the model."""
    attention: Float[np.ndarray, "T S"] | None = None
    """The weights of the S source tokens where each of these tokens is chosen, if asked for."""


class TranslateOptions(TypedDict, total=False):
    """What `Translator.translate` and `stream` take besides `n_best` and `prefix`."""

    beam_size: int | None
    """Width of the beam, 4 unless said; 1 takes the likeliest token at each step (greedy); None
    draws texts at random, of which the likeliest is given."""
    max_new_tokens: int | None
    """Tokens of a translation at most; None: 32 and twice the source's, padded."""
    length_penalty: float
    """As in `jaxgen.generation.beam.beam_search`, and so are the next three."""
    length_offset: float
    coverage_penalty: float
    patience: float
    mbr: bool | int
    """Minimum Bayes risk: draw so many texts (True: 32) and give the one that is most like all."""
    utility: Literal["chrf", "bleu"] | Callable[[str, str], float]
    """How like two texts are for `mbr`; see `jaxgen.generation.mbr`."""
    temperature: float
    """Of random texts (`beam_size=None` or `mbr`), as the next eight: see `SamplingParams`."""
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    key: int | jax.Array
    """A seed or a jax key for random texts; that of a text is folded from it by the text's place.
    """
    no_repeat_ngram: int
    """Of any decoding: see `SamplingParams`."""
    min_new_tokens: int
    banned_tokens: Sequence[int]
    attention: bool
    """Whether each `Translation` gets its attention weights; needs `n_best`."""
    batch_size: int
    """Texts that are decoded together at most, 64 unless said; fewer where they are long."""


_RANDOM = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "key"),
)
_LENGTH = ("length_penalty", "length_offset")
_SEARCH = ("coverage_penalty", "patience")


@dataclass(frozen=True)
class Decoding:
    """How each text is decoded; the options are checked."""

    options: Mapping[str, Any]
    kind: Literal["beam", "greedy", "random", "mbr"]
    width: int
    """Texts that are decoded for each source."""
    n_best: int | None

    @property
    def count(self) -> int:
        """Translations of each text, at most."""
        return self.n_best or 1

    @property
    def settings(self) -> dict[str, Any]:
        """Those of `make_request`."""
        greedy = {"temperature": 0.0} if self.kind == "greedy" else {}
        return greedy | {name: self.options[name] for name in SETTINGS if name in self.options}

    def key(self) -> jax.Array:
        """The one key of all texts."""
        key = check_key(self.options.get("key", 0), 1)
        if jnp.issubdtype(key.dtype, jnp.integer):
            return jax.random.key(key)
        return key.reshape(())

    def hypotheses(
        self, runner: Runner, tokenizer: Any, request: Request, keys: Any, max_new_tokens: int
    ) -> list[list[Translation]]:
        """The best translations of each prompt of the request, at most `count`, best first.

        Args:
            runner: the model.
            tokenizer: of the translations.
            request: with `width` rows a prompt unless this is a beam search.
            keys: one a row; None without chance.
            max_new_tokens: of each.
        """
        prefixes = [tokenizer.decode(context[1:].tolist()) for context in request.context]
        if self.kind == "beam":
            names = [name for name in (*_LENGTH, *_SEARCH) if name in self.options]
            options = {name: self.options[name] for name in names}
            options |= {"num_beams": self.width, "max_new_tokens": max_new_tokens}
            found = search(runner, tokenizer, request, options, self.count)
            return [
                [
                    Translation(prefix + x.text, x.score, x.tokens, x.token_logprobs or [])
                    for x in beams
                ]
                for prefix, beams in zip(prefixes, found, strict=True)
            ]
        samples = sample_texts(
            runner, tokenizer, request, 0 if keys is None else keys, max_new_tokens
        )
        scores = self._scores([x.logprobs or [] for x in samples])
        drawn = [
            Translation(prefixes[prompt] + x.text, score, x.tokens, x.logprobs or [])
            for prompt, x, score in zip(request.rows.tolist(), samples, scores, strict=True)
        ]
        groups = [drawn[at : at + self.width] for at in range(0, len(drawn), self.width)]
        return [self._best(group) for group in groups]

    def _scores(self, logprobs: Sequence[Sequence[float]]) -> list[float]:
        """What a beam search would rank these texts by."""
        power, offset = (float(getattr(_ranking_of(self.options), name)) for name in _LENGTH)
        lengths = [(offset + max(len(text), 1)) / (offset + 1) for text in logprobs]
        return [sum(x) / length**power for x, length in zip(logprobs, lengths, strict=True)]

    def _best(self, drawn: list[Translation]) -> list[Translation]:
        """Different ones of those drawn for a source, best first."""
        if self.kind == "mbr":
            utility = self.options.get("utility", "chrf")
            found = minimum_bayes_risk([x.text for x in drawn], utility).utilities.tolist()
            drawn = [x._replace(score=score) for x, score in zip(drawn, found, strict=True)]
        different: dict[str, Translation] = {}
        for one in sorted(drawn, key=lambda x: -x.score):  # stable: of equals the first
            different.setdefault(one.text, one)
        return list(different.values())[: self.count]


def read_options(
    options: Mapping[str, Any], n_best: int | None, step_fn: Any, vocab_size: int
) -> Decoding:
    """UserError for options that are unknown, out of range, or do not go together."""
    check_options(options, TranslateOptions.__annotations__)
    kind, width = _kind_of(options)
    _check_useful(options, kind)
    check_at_least_one(batch_size=options.get("batch_size", 64))
    check_at_least_one(
        max_new_tokens=1 if (most := options.get("max_new_tokens")) is None else most
    )
    if kind == "random":
        width = 1 if n_best is None else n_best
        check_at_least_one(n_best=width)
    most_of = {"beam": "beam_size", "greedy": "beam_size", "mbr": "mbr"}
    if n_best is not None and kind in most_of and not 1 <= n_best <= width:
        name = most_of[kind]
        raise UserError(
            f"`n_best` must be in [1, {name} = {width}], got {n_best}; raise `{name}` to have more"
        )
    if options.get("attention") and n_best is None:
        raise UserError(
            "`attention` is a part of each `Translation`, which `n_best` asks for; give `n_best=1`"
        )
    check_ranking(_ranking_of(options))
    if options.get("coverage_penalty") is not None:
        check_has_attention(step_fn)
    decoding = Decoding(options, kind, width, n_best)
    for name, value in decoding.settings.items():
        if np.ndim(value) > (name in TOKEN_LISTS):
            raise UserError(f"`{name}` must be the same for all texts, got {value!r:.60}")
    SamplingParams(**decoding.settings).check(1, vocab_size)
    decoding.key()
    return decoding


def _kind_of(options: Mapping[str, Any]) -> tuple[Any, int]:
    """How texts are decoded, and how many for each source."""
    if (mbr := options.get("mbr", False)) is not False:
        if options.get("beam_size") is not None:
            raise UserError(
                "`mbr` chooses among random texts, and `beam_size` searches; leave one of them out"
            )
        check_at_least_one(mbr=mbr)
        return "mbr", MBR_SAMPLES if mbr is True else mbr
    beam_size = options.get("beam_size", 4)
    if beam_size is None:
        return "random", 1
    if beam_size < 1:
        raise UserError(
            f"`beam_size` must be at least 1, got {beam_size}; None draws texts at random"
        )
    return ("greedy" if beam_size == 1 else "beam"), beam_size


def _check_useful(options: Mapping[str, Any], kind: str) -> None:
    """UserError for an option that would change nothing."""
    chance = kind in ("random", "mbr")
    if wrong := [name for name in _RANDOM if name in options and not chance]:
        raise UserError(
            f"`{wrong[0]}` shapes a random choice, and a search ranks texts by the model's own "
            "probabilities; leave it out, or draw texts with `beam_size=None` or `mbr`"
        )
    unused = {"beam": (), "mbr": (*_SEARCH, *_LENGTH)}.get(kind, _SEARCH)
    if wrong := [name for name in unused if name in options]:
        raise UserError(
            f"`{wrong[0]}` is for a search among several texts; leave it out, or give a "
            "`beam_size` of 2 or more"
        )
    if "utility" in options and kind != "mbr":
        raise UserError("`utility` is for `mbr`; leave it out, or give `mbr=True`")


def _ranking_of(options: Mapping[str, Any]) -> Ranking:
    defaults: dict[str, Any] = {
        "length_penalty": 1.0,
        "length_offset": 0.0,
        "coverage_penalty": None,
        "diversity_penalty": 0.0,
        "patience": None,
    }
    return Ranking(**{name: options.get(name, value) for name, value in defaults.items()})


def attended(
    weights_of: Callable[[Any, Any, Any], Float[Any, "B T S"]],
    batch: SourceBatch,
    contexts: Sequence[np.ndarray],
    hypotheses: Sequence[Sequence[Translation]],
) -> list[list[Translation]]:
    """Translations with their attention: one pass over those of each rank.

    Args:
        weights_of: from sources [B, S], lengths [B] and targets [B, T + 1].
        batch: the sources.
        contexts: what each translation follows, <bos> first.
        hypotheses: those of each source.
    """
    found: list[list[Translation]] = [[] for _ in hypotheses]
    starts = [len(context) - 1 for context in contexts]
    rows = programs.batch_bucket(len(contexts))
    sources, lengths = (programs.pad_rows(x, rows) for x in batch[1:])
    for rank in range(max(map(len, hypotheses))):
        chosen = [best[min(rank, len(best) - 1)] for best in hypotheses]
        lines = [np.append(x, y.tokens) for x, y in zip(contexts, chosen, strict=True)]
        # The last token is foretold, not read: a power of two is read.
        width = 1 + (1 << (max(map(len, lines)) - 2).bit_length())
        targets = programs.pad_rows(padded(lines, width), rows)
        weights = np.asarray(weights_of(sources, lengths, targets))
        for place, (one, start) in enumerate(zip(chosen, starts, strict=True)):
            if rank < len(hypotheses[place]):
                own = weights[place, start : start + len(one.tokens), : lengths[place]]
                found[place].append(one._replace(attention=own.copy()))
    return found
