"""`jaxgen translate`: translations of texts from a trained encoder-decoder."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import DisallowNone, Positional, arg

from jaxgen.cli.joined import Ensemble
from jaxgen.cli.options import Checkpoint, Flag, RunArgument, note_full_cost, said
from jaxgen.cli.texts import SLOW, TextSource, check_texts, read_texts, with_progress
from jaxgen.errors import UserError

if TYPE_CHECKING:
    from jaxgen.generation.translations import Translation
    from jaxgen.generation.translator import Translator

Number = Annotated[float | None, DisallowNone, said]
Whole = Annotated[int | None, DisallowNone, said]
Name = Annotated[str | None, DisallowNone, said]
Picture = Annotated[Path | None, DisallowNone, arg(metavar="PNG", help_behavior_hint="")]

_CHANCE = ("temperature", "top_p", "top_k", "min_p", "seed")
_SEARCH = ("length_penalty", "length_offset", "coverage_penalty", "patience")
_SETTINGS = ("max_new_tokens", *_SEARCH, "temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True)
class Translate:
    """Print the translation of each text, a line each.

    With --n-best a line is the number of the text, the score and the translation, with tabs
    between. --temperature, --top-p, --top-k, --min-p or --seed draw translations at random.
    """

    run: RunArgument
    """Run directory or export of an encoder-decoder."""
    text: Positional[Annotated[tuple[str, ...], arg(metavar="TEXT", help_behavior_hint="")]] = ()
    """Texts to translate; without any and without --file, the lines of standard input. One that
    begins with a dash comes after --."""
    file: Annotated[Path | None, DisallowNone, said] = None
    """Translate the lines of this file, or the rows of a csv, tsv, json, jsonl or parquet file,
    also gzipped; - is standard input. An empty line has an empty translation."""
    column: Name = None
    """Column of the texts, or its number where a csv or tsv has no header (default: the source
    column that the model was trained with)."""
    separator: Name = None
    """Character between the fields of a csv or tsv (default: found in its first line)."""
    errors: Annotated[Literal["strict", "replace", "ignore"], said] = "strict"
    """What to do with bytes that are not UTF-8."""
    beam_size: Whole = None
    """Width of the search; 1 takes the likeliest token at each step (default:
    `translation.beam_size` of the run)."""
    n_best: Whole = None
    """Print so many different translations of each text, best first."""
    length_penalty: Number = None
    """Power of the length that log-probabilities are divided by; above 0 favours long texts
    (default: `translation.length_penalty` of the run)."""
    length_offset: Number = None
    """Added to the lengths; 5 as Wu et al. (default: 0)."""
    coverage_penalty: Number = None
    """Penalty on parts of the source that no token attended to (default: 0)."""
    patience: Number = None
    """End the search when this times --beam-size translations have ended (default: when none can
    become better)."""
    max_new_tokens: Whole = None
    """Length of each translation, in tokens, at most (default: 32 and twice that of the text)."""
    prefix: Name = None
    """What each translation begins with."""
    mbr: Whole = None
    """Draw so many translations and take the one that is most like all of them."""
    utility: Annotated[Literal["chrf", "bleu"], said] = "chrf"
    """How alike two translations are for --mbr."""
    temperature: Number = None
    """Of random translations; the higher, the more varied (default: 1)."""
    top_p: Number = None
    """Keep the likeliest tokens that hold this share of the probability."""
    top_k: Whole = None
    """Keep so many of the likeliest tokens."""
    min_p: Number = None
    """Keep tokens at least so many times as likely as the likeliest."""
    seed: Whole = None
    """Of random translations (default: 0)."""
    attention: Picture = None
    """Draw what the translation of one text attends to into this file."""
    json: Flag = False
    """Print one JSON object a text, with scores and the log-probability of each token."""
    checkpoint: Checkpoint = None
    """Which parameters of a run (default: the best, or the last where none was evaluated)."""
    joined: Annotated[Ensemble, arg(name="")] = field(default_factory=Ensemble)

    def __call__(self) -> None:
        """Translate and print."""
        source = TextSource(self.file, self.column, self.separator, self.errors)
        check_texts(self.text, source, "translate")
        self._check()
        self.joined.check()

        from jaxgen.saved import check_command
        from jaxgen.training.parallel import request_host_devices

        check_command(self.run, "translate")
        request_host_devices()
        translator: Translator = self.joined.load(self.run, self.checkpoint)
        options = self._options(translator.config)
        note_full_cost(translator.step_fn, ["--beam-size"] if (self.beam_size or 1) > 1 else [])
        if self.text:
            each = zip(self.text, translator.stream(self.text, **options), strict=True)
            for number, (text, found) in enumerate(each, 1):
                self._draw(translator, text, found[0])
                self._print(translator, number, found, text)
            return
        column = getattr(translator.config.data, "source_column", None) or "source"
        slow = source.is_standard_input  # a program at the other end may wait for each answer
        answers: Iterator[list[Translation]] = translator.stream(
            read_texts(source, column), max_wait=SLOW if slow else None, **options
        )
        answers = with_progress(answers, f"translating {source.name}")
        for number, found in enumerate(answers, 1):
            self._print(translator, number, found, None, flush=slow)

    def _check(self) -> None:
        """UserError for options that do not go together, before a model is looked for."""
        chance = self._given(_CHANCE)
        if self.beam_size is not None:
            for name in chance + self._given(("mbr",)):
                raise UserError(
                    f"{name} draws translations at random, and --beam-size searches for the "
                    "likeliest; leave one of them out"
                )
        if self.mbr is not None or chance:
            for name in self._given(_SEARCH if self.mbr is not None else _SEARCH[2:]):
                raise UserError(
                    f"{name} is for a search, and {'--mbr' if self.mbr is not None else chance[0]} "
                    "draws translations at random; leave one of them out"
                )
        width = self.beam_size if self.mbr is None else self.mbr
        option = "--beam-size" if self.mbr is None else "--mbr"
        if width is not None and width < 1:
            raise UserError(f"{option} must be at least 1, got {width}")
        most = width or self.n_best
        if self.n_best is not None and not 1 <= self.n_best <= (most or 1):
            rule = "at least 1" if width is None else f"1 to {option}, {width}"
            raise UserError(f"--n-best must be {rule}, got {self.n_best}")
        if self.utility != "chrf" and self.mbr is None:
            raise UserError("--utility is for --mbr: leave it out, or give --mbr")
        if self.seed is not None and not -(2**31) <= self.seed < 2**32:
            rule = f"in [{-(2**31)}, {2**32})"
            raise UserError(f"--seed must be {rule}, got {self.seed}; others would repeat texts")
        if self.attention is not None and len(self.text) != 1:
            raise UserError(
                "--attention draws one picture: give one text after the run, got "
                f"{len(self.text) or 'none'}"
            )
        if self.attention is not None:
            from jaxgen.evaluation.pictures import check_picture

            check_picture(self.attention, "--attention")

    def _given(self, names: Sequence[str]) -> list[str]:
        """Those of some options that are given, as they are written."""
        given = [name for name in names if getattr(self, name) is not None]
        return [f"--{name.replace('_', '-')}" for name in given]

    def _options(self, config: Any) -> dict[str, Any]:
        """Those of `Translator.stream`, with what the run sets by default."""
        options: dict[str, Any] = {
            name: value for name in _SETTINGS if (value := getattr(self, name)) is not None
        }
        options |= {"n_best": self.n_best or 1, "prefix": self.prefix}
        if self.attention is not None:
            options["attention"] = True
        if self.seed is not None:
            options["key"] = self.seed
        defaults = getattr(config, "translation", None)
        if self.mbr is not None:
            return options | {"mbr": self.mbr, "utility": self.utility}
        if self._given(_CHANCE):
            return options | {"beam_size": None}
        if defaults is not None:
            options.setdefault("length_penalty", defaults.length_penalty)
            options["beam_size"] = defaults.beam_size
        return options if self.beam_size is None else options | {"beam_size": self.beam_size}

    def _print(
        self,
        translator: "Translator",
        number: int,
        found: Sequence["Translation"],
        source: str | None,
        flush: bool = False,
    ) -> None:
        if self.json:
            shown: dict[str, Any] = {} if source is None else {"source": source}
            shown["translation"] = found[0].text
            shown["translations"] = [
                {
                    "text": one.text,
                    "score": one.score,
                    "tokens": translator.tokenizer.names(one.tokens),
                    "token_scores": one.token_scores,
                }
                for one in found
            ]
            print(json.dumps(shown), flush=flush)
            return
        for one in found:
            text = " ".join(one.text.splitlines())
            line = text if self.n_best is None else f"{number}\t{one.score:.4f}\t{text}"
            print(line, flush=flush)

    def _draw(self, translator: "Translator", text: str, best: "Translation") -> None:
        if self.attention is None:
            return
        from jaxgen.evaluation.attention_plots import plot_attention

        (source,), (length,) = translator.encode([text])
        names = translator.source_tokenizer.names(source[:length].tolist())
        plot_attention(
            self.attention, names, translator.tokenizer.names(best.tokens), best.attention
        )
