"""`jaxgen generate`: text from a trained model, whole, streamed or in conversation."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import DisallowNone, arg

from jaxgen.cli.conflicts import SHAPES, check_options_together
from jaxgen.cli.conversation import converse
from jaxgen.cli.joined import Joined
from jaxgen.cli.options import (
    Checkpoint,
    Flag,
    RunArgument,
    print_facts,
    said,
)
from jaxgen.cli.prompts import read_prompt, unescape
from jaxgen.cli.tables import check_table, write_table

Number = Annotated[float | None, DisallowNone, said]
Whole = Annotated[int | None, DisallowNone, said]
Outputs = tuple[list[dict[str, Any]], list[list[int]]]


@dataclass(frozen=True)
class Generate:
    """Print text from a trained model.

    Several prompts, temperatures or values of top-p give one text for each combination.
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
    label: Whole = None
    """What a conditioned model writes about."""
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

    def __call__(self) -> None:
        """Generate and print."""
        check_options_together(self)
        self.joined.check()
        if self.out is not None:
            check_table(self.out, overwrite=self.force)
        command = self._with_prompts()

        from jaxgen.saved import check_command
        from jaxgen.training.parallel import request_host_devices

        check_command(self.run, "generate")
        request_host_devices()
        command._run(self.joined.load(self.run, self.checkpoint))

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
        if self.interactive:
            converse(lambda text, seed: self._stream(lm, text, seed), self.seed or 0)
        elif self.stream:
            print(self.prompt[0], end="", flush=True)
            for piece in self._stream(lm, self.prompt[0], self.seed or 0):
                print(piece, end="", flush=True)
            print()
        else:
            self._print_all(lm)

    def _options(self) -> dict[str, Any]:
        """What every way of generating takes; what is not asked for is left out."""
        names = ("label", "no_repeat_ngram")
        values = {name: getattr(self, name) for name in names}
        values |= {"stop": self.stop or None, "allow_special": self.allow_special or None}
        known = {name: value for name, value in values.items() if value is not None}
        return {"max_new_tokens": self.max_new_tokens, **known}

    def _settings(self, top_p: Iterable[float]) -> dict[str, Any]:
        """Settings of the sampler besides the temperature; what is not asked for is left out."""
        values = {name: getattr(self, name) for name in SHAPES}
        values["top_p"] = None if set(self.top_p) == {1.0} else list(top_p)
        return {name: value for name, value in values.items() if value is not None}

    def _stream(self, lm: Any, prompt: str, seed: int) -> Iterator[str]:
        """The continuation of a prompt while it is made."""
        settings = {"temperature": self.temperature[0], **self._settings(self.top_p)}
        return lm.stream(prompt, key=seed, **self._options(), **settings)

    def _print_all(self, lm: Any) -> None:
        """Generate all combinations in one batch, and print or write them."""
        outputs, tokens = self._sample(lm) if self.beam_size is None else self._search(lm)
        seed = {"seed": self.seed or 0} if self.beam_size is None else {}
        result: dict[str, Any] = {"run": str(self.run), **seed, "outputs": outputs}
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
        grid = list(itertools.product(self.prompt, self.temperature, self.top_p))
        prompts, temperatures, top_p = map(list, zip(*grid, strict=True))
        texts = lm.sample(
            prompts,
            n=self.n,
            key=self.seed or 0,
            temperature=temperatures,
            **self._options(),
            **self._settings(top_p),
        )
        flat = [
            (settings, number, sample)
            for settings, samples in zip(grid, texts, strict=True)
            for number, sample in enumerate(samples)
        ]
        outputs = [
            {
                "prompt": prompt,
                "temperature": temperature,
                "top_p": p,
                "sample": number,
                "text": sample.text,
                "tokens": len(sample.tokens),
                "nll": _mean_nll(sum(sample.logprobs), len(sample.logprobs)),
                "finished": sample.finished,
            }
            for (prompt, temperature, p), number, sample in flat
        ]
        return outputs, [sample.tokens for _, _, sample in flat]

    def _search(self, lm: Any) -> Outputs:
        """The `n` best texts of a beam for each prompt."""
        found = lm.beam_search(
            list(self.prompt),
            num_beams=self.beam_size,
            n=self.n,
            **self._options(),
        )
        flat = [
            (prompt, place, beam)
            for prompt, beams in zip(self.prompt, found, strict=True)
            for place, beam in enumerate(beams)
        ]
        outputs = [
            {
                "prompt": prompt,
                "sample": place,
                "text": beam.text,
                "tokens": len(beam.tokens),
                "nll": _mean_nll(beam.logprob, len(beam.tokens)),
            }
            for prompt, place, beam in flat
        ]
        return outputs, [beam.tokens for _, _, beam in flat]

    def _title(self, output: dict[str, Any]) -> str:
        """What sets one text apart from the others."""
        if self.beam_size:
            nll = output["nll"]
            return f"{output['sample'] + 1}, " + (
                "no tokens" if nll is None else f"{nll:.4f} nats a token"
            )
        parts = [f"temperature {output['temperature']:g}"]
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
    from jaxgen.tasks.language_model import training_tokens

    found = memorisation(texts, training_tokens(lm))
    shares = {f"novel_{n}": share for n, share in found.novel.items()}
    shares |= {f"distinct_{n}": share for n, share in found.distinct.items()}
    known = {name: share for name, share in shares.items() if not math.isnan(share)}
    return {"longest_copies": [copy.length for copy in found.copies], **known}
