"""`jaxgen generate`: text from a trained model, whole, streamed or in conversation."""

import itertools
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import DisallowNone

from jaxgen.cli.options import Checkpoint, Flag, RunArgument, print_facts, said
from jaxgen.cli.tables import check_table, write_table
from jaxgen.errors import UserError

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
    new line, else the first token of the vocabulary."""
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
    seed: int = 0
    """One seed, one text."""
    label: Whole = None
    """What a conditioned model writes about."""
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
    checkpoint: Checkpoint = None
    """Which parameters of a run (default: the best, or the last where none was evaluated)."""

    def __call__(self) -> None:
        """Generate and print."""
        grid = list(itertools.product(self.prompt, self.temperature, self.top_p))
        if not grid:
            raise UserError("`--prompt`, `--temperature` and `--top-p` need a value each")
        if (self.stream or self.interactive) and (len(grid) > 1 or self.n > 1):
            raise UserError(
                "--stream and --interactive write one text at a time: give one prompt, one "
                "--temperature and one --top-p, and no --n"
            )
        if self.beam_size is not None:
            if self.stream or self.interactive:
                raise UserError("--beam-size finds whole texts: leave out --stream, --interactive")
            if not 1 <= self.n <= self.beam_size:
                raise UserError(f"--n must be 1 to --beam-size, {self.beam_size}, got {self.n}")
        if self.report and (self.stream or self.interactive):
            raise UserError("--report needs whole texts: leave out --stream and --interactive")
        if self.out is not None:
            if self.stream or self.interactive:
                raise UserError("--out needs whole texts: leave out --stream and --interactive")
            check_table(self.out)

        from jaxgen.experiment import load
        from jaxgen.training.parallel import request_host_devices

        request_host_devices()
        lm = load(self.run, self.checkpoint)
        labels = lm.config.model.num_labels
        if self.label is not None and not 0 <= self.label < labels:
            rule = f"in [0, {labels})" if labels else "left out: this model has no labels"
            raise UserError(f"--label must be {rule}, got {self.label}")
        if self.interactive:
            self._converse(lm)
        elif self.stream:
            print(self.prompt[0], end="", flush=True)
            self._stream(lm, self.prompt[0], self.seed)
        else:
            self._print_all(lm, grid)

    def _settings(self, top_p: Iterable[float]) -> dict[str, Any]:
        """Settings of the sampler besides the temperature; what is not asked for is left out."""
        names = (
            *("top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty"),
            *("frequency_penalty", "no_repeat_ngram"),
        )
        values = {name: getattr(self, name) for name in names}
        values["top_p"] = None if set(self.top_p) == {1.0} else list(top_p)
        return {name: value for name, value in values.items() if value is not None}

    def _stream(self, lm: Any, prompt: str, seed: int) -> str:
        """Print the continuation of a prompt while it is made, and return it."""
        text = ""
        for piece in lm.stream(
            prompt,
            max_new_tokens=self.max_new_tokens,
            key=seed,
            stop=self.stop or None,
            labels=self.label,
            temperature=self.temperature[0],
            **self._settings(self.top_p),
        ):
            print(piece, end="", flush=True)
            text += piece
        print()
        return text

    def _converse(self, lm: Any) -> None:
        """Continue what is typed until the end of input; Ctrl-C ends one text."""
        print("Type a text to continue; an empty line goes on; Ctrl-D ends.", file=sys.stderr)
        text = ""
        for seed in itertools.count(self.seed):
            try:
                prompt = input("> ")
            except EOFError:
                print()
                return
            text = prompt or text
            try:
                text += self._stream(lm, text, seed)
            except KeyboardInterrupt:
                print()

    def _print_all(self, lm: Any, grid: list[tuple[str, float, float]]) -> None:
        """Generate all combinations in one batch, and print or write them."""
        outputs, tokens = self._search(lm) if self.beam_size else self._sample(lm, grid)
        result: dict[str, Any] = {"run": str(self.run), "seed": self.seed, "outputs": outputs}
        if self.report:
            result["report"] = _report(self.run, tokens)
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

    def _sample(self, lm: Any, grid: list[tuple[str, float, float]]) -> Outputs:
        prompts, temperatures, top_p = map(list, zip(*grid, strict=True))
        texts = lm.sample(
            prompts,
            max_new_tokens=self.max_new_tokens,
            n=self.n,
            key=self.seed,
            stop=self.stop or None,
            labels=self.label,
            temperature=temperatures,
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
                "nll": -sum(sample.logprobs) / max(len(sample.logprobs), 1),
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
            max_new_tokens=self.max_new_tokens,
            labels=self.label,
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
                "nll": -beam.logprob / max(len(beam.tokens), 1),
            }
            for prompt, place, beam in flat
        ]
        return outputs, [beam.tokens for _, _, beam in flat]

    def _title(self, output: dict[str, Any]) -> str:
        """What sets one text apart from the others."""
        if self.beam_size:
            return f"{output['sample'] + 1}, {output['nll']:.4f} nats a token"
        parts = [f"temperature {output['temperature']:g}"]
        if len(self.top_p) > 1:
            parts.append(f"top-p {output['top_p']:g}")
        if self.n > 1:
            parts.append(f"sample {output['sample'] + 1}")
        return ", ".join(parts)


def _report(run: Path, texts: list[list[int]]) -> dict[str, Any]:
    """Copied spans and variety of some texts, against the corpus of their model."""
    from jaxgen.evaluation.memorisation import memorisation
    from jaxgen.experiment import training_tokens

    found = memorisation(texts, training_tokens(run))
    shares = {f"novel_{n}": share for n, share in found.novel.items()}
    shares |= {f"distinct_{n}": share for n, share in found.distinct.items()}
    known = {name: share for name, share in shares.items() if not math.isnan(share)}
    return {"longest_copies": [copy.length for copy in found.copies], **known}
