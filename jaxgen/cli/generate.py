"""`jaxgen generate`: text from a trained model, whole, streamed or in conversation."""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import DisallowNone, arg

from jaxgen.cli.cache import Cache
from jaxgen.cli.conflicts import ONE_TEXT, SHAPES, check_options_together
from jaxgen.cli.conversation import converse
from jaxgen.cli.joined import Joined
from jaxgen.cli.labels import typed_labels
from jaxgen.cli.options import (
    Checkpoint,
    Flag,
    RunArgument,
    note_full_cost,
    print_facts,
    said,
)
from jaxgen.cli.prompts import read_prompt, unescape
from jaxgen.cli.tables import check_table, write_table
from jaxgen.errors import UserError

Number = Annotated[float | None, DisallowNone, said]
Whole = Annotated[int | None, DisallowNone, said]
Grid = list[dict[str, Any]]
Outputs = tuple[list[dict[str, Any]], list[list[int]]]


@dataclass(frozen=True)
class Generate:
    """Print text from a trained model.

    Several prompts, labels, temperatures or values of guidance or top-p give one text for each
    combination.
    """

    run: RunArgument
    """Run directory or export."""
    prompt: Annotated[tuple[str, ...], said] = ("",)
    """Texts to continue. An empty one begins where a text begins: after <bos>, else <eos>, else a
    new line, else the first token of the vocabulary. One that begins with a dash is written
    --prompt=-text."""
    prompt_file: Annotated[
        Path | None, DisallowNone, arg(metavar="FILE", help_behavior_hint="")
    ] = None
    """Continue the text of this file instead, without its last line end; - is standard input."""
    escapes: Flag = False
    r"""Take \n, \t, \r and \\ in --prompt and --stop as a new line, a tab, a carriage return and a
    backslash."""
    temperature: Annotated[tuple[float, ...], said] = (1.0,)
    """0 is greedy; the higher, the more varied."""
    top_p: Annotated[tuple[float, ...], said] = (1.0,)
    """Keep the likeliest tokens that hold this share of the probability."""
    top_k: Whole = None
    """Keep so many of the likeliest tokens."""
    min_p: Number = None
    """Keep tokens at least so many times as likely as the likeliest."""
    typical_p: Number = None
    """Keep the tokens of typical surprise that hold this share of the probability."""
    repetition_penalty: Number = None
    """Above 1 discourages tokens that the text has already."""
    presence_penalty: Number = None
    """Taken from the logit of each token generated so far."""
    frequency_penalty: Number = None
    """Taken as many times as the token was generated so far."""
    no_repeat_ngram: Whole = None
    """Never generate so many tokens in a row twice."""
    max_new_tokens: int = 400
    """Length of each text, in tokens."""
    stop: Annotated[tuple[str, ...], said] = ()
    """End a text before the first of these strings."""
    n: int = 1
    """Texts for each combination."""
    seed: Whole = None
    """One seed, one text. (default: 0)"""
    label: Annotated[tuple[str, ...], said] = ()
    """What a conditioned model writes about: a name or a number, joy=0.7,fear=0.3 for several,
    not:anger to steer away, or all for each in turn."""
    guidance: Annotated[tuple[float, ...], said] = ()
    """How strongly: 0 as without a label, 1 as trained, more exaggerates. (default: 1)"""
    allow_special: Flag = False
    """Generate the tokens <unk>, <pad> and <bos> as well."""
    beam_size: Whole = None
    """Search for the likeliest text instead of sampling, with so many beams."""
    stream: Flag = False
    """Print the text as it is made."""
    interactive: Flag = False
    """Read prompts from the terminal and stream their texts; an empty line goes on."""
    report: Flag = False
    """Say how much of the texts is copied from the training corpus, and how varied they are."""
    json: Flag = False
    """Print one JSON object."""
    out: Annotated[Path | None, DisallowNone, said] = None
    """Write the texts to this file instead, a line each: .jsonl, .csv or .md."""
    force: Flag = False
    """Replace the file that --out names where it is there already."""
    checkpoint: Checkpoint = None
    """Which parameters of a run (default: the best, or the last where none was evaluated)."""
    joined: Annotated[Joined, arg(name="")] = field(default_factory=Joined)
    cached: Annotated[Cache, arg(name="")] = field(default_factory=Cache)

    def __call__(self) -> None:
        """Generate and print."""
        check_options_together(self)
        self.joined.check()
        self.cached.check()
        if self.out is not None:
            check_table(self.out, overwrite=self.force)
        command = self._with_prompts()

        from jaxgen.saved import check_command
        from jaxgen.training.parallel import request_host_devices

        check_command(self.run, "generate")
        request_host_devices()
        command._run(self.cached.remembering(self.joined.load(self.run, self.checkpoint)))

    def _with_prompts(self) -> "Generate":
        """The same with the texts to continue read and their escapes resolved."""
        prompt, stop = self.prompt, self.stop
        if self.prompt_file is not None:
            prompt = (read_prompt(self.prompt_file),)
        elif self.escapes:
            prompt = tuple(map(unescape, prompt))
        return replace(
            self, prompt=prompt, stop=tuple(map(unescape, stop)) if self.escapes else stop
        )

    def _run(self, lm: Any) -> None:
        asked = {
            "--beam-size": self.beam_size,
            "--typical-p": self.typical_p,
            "--guidance": self.guidance,
            "--regex": self.joined.regex,
        }
        note_full_cost(lm.step_fn, [name for name, value in asked.items() if value])
        if self.interactive:
            self._stream(lm, "", 0)  # what is wrong is said once, not after every line
            converse(lambda text, seed: self._stream(lm, text, seed), self.seed or 0)
        elif self.stream:
            pieces = self._stream(lm, self.prompt[0], self.seed or 0)  # checked here
            print(self.prompt[0], end="", flush=True)
            for piece in pieces:
                print(piece, end="", flush=True)
            print()
        else:
            self._print_all(lm)

    def _options(self) -> dict[str, Any]:
        """What every way of generating takes; what is not asked for is left out."""
        values = {
            "no_repeat_ngram": self.no_repeat_ngram,
            "stop": self.stop or None,
            "allow_special": self.allow_special or None,
        }
        known = {name: value for name, value in values.items() if value is not None}
        return {"max_new_tokens": self.max_new_tokens, **known}

    def _settings(self) -> dict[str, Any]:
        """Settings of the sampler that are the same for all texts, where they are asked for."""
        values = {name: getattr(self, name) for name in SHAPES}
        return {name: value for name, value in values.items() if value is not None}

    def _grid(self, lm: Any) -> Grid:
        """Each combination of what may have several values; what is not asked for is left out."""
        axes: dict[str, Sequence[Any]] = {"prompt": self.prompt}
        if self.label:
            axes["label"] = typed_labels(self.label, lm.labels)
        if self.guidance:
            axes["guidance"] = self.guidance
        if self.beam_size is None:
            axes |= {"temperature": self.temperature, "top_p": self.top_p}
        return [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]

    def _values(self, grid: Grid) -> dict[str, list[Any]]:
        """The values of each option, the prompt aside; a `top_p` that cuts nothing is left out."""
        unused = {"prompt", "top_p"} if set(self.top_p) == {1.0} else {"prompt"}
        return {name: [row[name] for row in grid] for name in grid[0] if name not in unused}

    def _stream(self, lm: Any, prompt: str, seed: int) -> Iterator[str]:
        """The continuation of a prompt while it is made."""
        grid = self._grid(lm)
        if len(grid) > 1:  # `--label all`
            raise UserError(ONE_TEXT)
        values = self._values(grid)
        return lm.stream(prompt, key=seed, **self._options(), **self._settings(), **values)

    def _print_all(self, lm: Any) -> None:
        """Generate all combinations in one batch, and print or write them."""
        outputs, tokens = self._sample(lm) if self.beam_size is None else self._search(lm)
        seed = {"seed": self.seed or 0} if self.beam_size is None else {}
        result: dict[str, Any] = {"run": str(self.run), **seed, **self.cached.facts(lm)}
        result["outputs"] = outputs
        if self.report:
            result["report"] = _report(lm, tokens)
        if self.out is not None:
            write_table(self.out, outputs)
        if self.json:
            print(json.dumps(result))
            return
        for output in outputs if self.out is None else ():
            if len(outputs) > 1:
                print(f"--- {self._title(output)}")
            print(output["prompt"] + output["text"])
        if self.report:
            print()
            print_facts(result["report"], as_json=False)

    def _sample(self, lm: Any) -> Outputs:
        grid = self._grid(lm)
        texts = lm.sample(
            [row["prompt"] for row in grid],
            n=self.n,
            key=self.seed or 0,
            **self._options(),
            **self._settings(),
            **self._values(grid),
        )
        flat = [
            (row, number, sample)
            for row, samples in zip(grid, texts, strict=True)
            for number, sample in enumerate(samples)
        ]
        outputs = [
            {
                **row,
                "sample": number,
                "text": sample.text,
                "tokens": len(sample.tokens),
                "nll": _mean_nll(sum(sample.logprobs), len(sample.logprobs)),
                "finished": sample.finished,
            }
            for row, number, sample in flat
        ]
        return outputs, [sample.tokens for _, _, sample in flat]

    def _search(self, lm: Any) -> Outputs:
        """The `n` best texts of a beam for each combination."""
        grid = self._grid(lm)
        found = lm.beam_search(
            [row["prompt"] for row in grid],
            num_beams=self.beam_size,
            n=self.n,
            **self._options(),
            **self._values(grid),
        )
        flat = [
            (row, place, beam)
            for row, beams in zip(grid, found, strict=True)
            for place, beam in enumerate(beams)
        ]
        outputs = [
            {
                **row,
                "sample": place,
                "text": beam.text,
                "tokens": len(beam.tokens),
                "nll": _mean_nll(beam.logprob, len(beam.tokens)),
            }
            for row, place, beam in flat
        ]
        return outputs, [beam.tokens for _, _, beam in flat]

    def _title(self, output: dict[str, Any]) -> str:
        """What sets one text apart from the others."""
        parts = [f"label {output['label']}"] if self.label else []
        if self.guidance:
            parts.append(f"guidance {output['guidance']:g}")
        if self.beam_size:
            nll = output["nll"]
            place = "no tokens" if nll is None else f"{nll:.4f} nats a token"
            return ", ".join([*parts, str(output["sample"] + 1), place])
        if len(self.temperature) > 1 or not parts:
            parts.append(f"temperature {output['temperature']:g}")
        if len(self.top_p) > 1:
            parts.append(f"top-p {output['top_p']:g}")
        if self.n > 1:
            parts.append(f"sample {output['sample'] + 1}")
        return ", ".join(parts)


def _mean_nll(logprob: float, tokens: int) -> float | None:
    """Nats per token; None for a text without tokens, which ended before its first."""
    return -logprob / tokens if tokens else None


def _report(lm: Any, texts: list[list[int]]) -> dict[str, Any]:
    """Copied spans and variety of some texts, against the corpus of their model."""
    from jaxgen.evaluation.memorisation import memorisation
    from jaxgen.tasks import task_of

    task: Any = task_of(lm.config)
    found = memorisation(texts, task.training_tokens(lm))
    shares = {f"novel_{n}": share for n, share in found.novel.items()}
    shares |= {f"distinct_{n}": share for n, share in found.distinct.items()}
    known = {name: share for name, share in shares.items() if not math.isnan(share)}
    return {"longest_copies": [copy.length for copy in found.copies], **known}
