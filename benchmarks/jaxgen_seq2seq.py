"""jaxgen's own contestants in sequence to sequence: its train step, greedy and beam decoding."""

import dataclasses
import time
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import cycle
from benchmarks.jaxgen_epochs import BLOCK, EpochTraining
from benchmarks.seq2seq_cases import BOS, EOS, FIRST, Ints, Seq2SeqCase
from jaxgen.data.ragged import Ragged
from jaxgen.generation.beam import beam_search
from jaxgen.generation.decoding import Prepared
from jaxgen.generation.generate import generate
from jaxgen.generation.one_kernel import jit_with_fused_loop
from jaxgen.generation.sampling import SamplingParams
from jaxgen.generation.sources import source_bucket
from jaxgen.models.seq2seq import Seq2Seq, seq2seq_loss
from jaxgen.models.seq2seq_decoding import initial_carry_of, prefill_fn_of, step_fn_of
from jaxgen.training.parallel import request_host_devices
from jaxgen.training.step import LossFn

DEVICES = 2
"""The rows of a batch divide by it, so that one plan is for one device and for two."""
SPECIALS = ("<pad>", "<bos>", "<eos>")


def bucketed(case: Seq2SeqCase, sources: list[Ints]) -> Any:
    """The case's targets, and sources of the case's lengths, as batches."""
    from jaxgen.data.pair_buckets import PairBatches, PairRows, pair_shapes

    rows = PairRows(Ragged.from_rows(sources), Ragged.from_rows(case.rows()[1]))
    shapes = pair_shapes(rows, case.buckets)
    return PairBatches(rows, case.batch_tokens, shapes, case.seed, BLOCK, devices=DEVICES)


def planned(case: Seq2SeqCase) -> Seq2SeqCase:
    """The case with the batches of its first epoch; of the last one the rows that are pairs."""
    numbered = [np.full(len(row), index, np.int32) for index, row in enumerate(case.rows()[0])]
    source = bucketed(case, numbered)
    batches = [source.read(0, index, 1) for index in range(source.batches_per_epoch)]
    plan = tuple(
        ((x.sources.shape[-1], x.targets.shape[-1]), tuple(x.sources[x.weights > 0][:, 0].tolist()))
        for x in batches
    )
    return dataclasses.replace(case, plan=plan)


def model_of(case: Seq2SeqCase, dtype: str = "float32", backend: str = "auto") -> Seq2Seq:
    return Seq2Seq(
        source_vocab_size=case.V,
        target_vocab_size=case.V,
        hidden_size=case.H,
        embedding_size=case.E,
        bidirectional=case.bidirectional,
        attention=case.attention,
        dtype=jnp.dtype(dtype),
        backend=backend,
    )


def params_of(case: Seq2SeqCase, *, endless: bool = False) -> dict[str, Any]:
    """The case's parameters as jaxgen's module names and orders them (kernels transposed)."""
    source = {name: jnp.asarray(x) for name, x in case.parameters(endless=endless).items()}

    def layer(name: str) -> dict[str, Any]:
        return {
            "input_kernel": source[f"{name}.weight_ih"].T,
            "recurrent_kernel": source[f"{name}.weight_hh"].T,
            "bias": source[f"{name}.bias"],
        }

    ways = ("", "_reverse")[: case.directions]
    params: dict[str, Any] = {
        "source_embedding": source["source_embedding"],
        "embedding": source["embedding"],
        "encoder": {f"layer_0{name}": layer(f"encoder.{way}") for way, name in enumerate(ways)},
        "decoder": {"layer_0": layer("decoder")},
        "output_kernel": source["head.weight"].T,
        "output_bias": source["head.bias"],
    }
    if case.bidirectional:
        params["bridge"] = {}
        for part in "ch":
            params["bridge"][f"layer_0_{part}_kernel"] = source[f"bridge.{part}.weight"].T
            params["bridge"][f"layer_0_{part}_bias"] = source[f"bridge.{part}.bias"]
    if case.attention != "none":
        names = ("key", "value", "hidden")
        params["attention"] = {f"{name}_kernel": source[f"attention.{name}"].T for name in names}
    return params


def loss_of(model: Seq2Seq) -> LossFn:
    """The package's loss, without dropout."""

    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        del key
        return seq2seq_loss(model, params, carry, batch)

    return loss_fn


class JaxgenTraining(EpochTraining):
    """The contestant: a unit of `run` is one epoch, see `EpochTraining`.

    Args:
        case: the fields of a `Seq2SeqCase`.
        devices: host devices of data parallelism.
        dtype: compute type.
        backend: of the recurrence.
    """

    def __init__(
        self,
        case: dict[str, Any],
        devices: int = 1,
        dtype: str = "float32",
        backend: str = "auto",
    ):
        request_host_devices(devices)
        self.case = Seq2SeqCase(**case)
        super().__init__(
            bucketed(self.case, self.case.rows()[0]),
            loss_of(model_of(self.case, dtype, backend)),
            partial(params_of, self.case),
            self.case.learning_rate,
            devices,
        )


class JaxgenDecoding:
    """The contestant: a unit of `run` is one call on B sources, to tokens on the host.

    One program reads the sources and decodes, as the package's own `Translator` has it: sources
    are padded to the same few lengths, and the parameters are rearranged once beforehand.

    Args:
        case: the fields of a `Seq2SeqCase`.
        dtype: compute type.
    """

    def __init__(self, case: dict[str, Any], dtype: str = "float32"):
        self.case = Seq2SeqCase(**case)
        model = model_of(self.case, dtype)
        self.params = params_of(self.case, endless=True)
        step_fn = step_fn_of(model)
        self.prepared = jax.jit(step_fn.prepare)(self.params)
        self.program = jit_with_fused_loop(self._decoder(model, Prepared(step_fn)))
        self.calls = [padded_sources(self.case, call) for call in self.case.questions()]
        self.stream = cycle(self.calls)
        started = time.perf_counter()
        self.run(len(self.calls))
        self.compile_seconds = time.perf_counter() - started

    def _decoder(self, model: Seq2Seq, step_fn: Prepared) -> Any:
        initial_carry, count = initial_carry_of(model), self.case.new_tokens
        starts = np.full((self.case.B, 1), BOS, np.int32)
        greedy = SamplingParams(temperature=0.0, stop_tokens=[EOS])

        def decode(params: Any, prepared: Any, sources: jax.Array, lengths: jax.Array) -> jax.Array:
            carry = initial_carry(params, self.case.B, (sources, lengths))
            if self.case.beams > 1:
                beams = {"num_beams": self.case.beams, "max_new_tokens": count}
                found = beam_search(step_fn, prepared, carry, starts, stop_tokens=[EOS], **beams)
                return found.tokens[:, 0]
            options = {"max_new_tokens": count, "num_logprobs": None}
            return generate(step_fn, prepared, carry, starts, None, 0, greedy, **options).tokens

        return decode

    def tokens(self, steps: int) -> list[list[list[int]]]:
        """The best text (B, new_tokens) a call, of the first calls."""
        found = [self.program(self.params, self.prepared, *call) for call in self.calls[:steps]]
        return [np.asarray(x).tolist() for x in found]

    def run(self, steps: int) -> None:
        """Make so many calls, one after the other."""
        for call in islice(self.stream, steps):
            np.asarray(self.program(self.params, self.prepared, *call))

    def facts(self) -> dict[str, Any]:
        """Seconds of the first calls: tracing, compilation, and one run each."""
        return {"compile_seconds": self.compile_seconds}


def padded_sources(case: Seq2SeqCase, call: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    """Sources of a call as the package pads them, and their lengths."""
    tokens, lengths = call
    width = source_bucket(tokens.shape[1], max(case.longest[0], tokens.shape[1]))
    return np.pad(tokens, ((0, 0), (0, width - tokens.shape[1]))), lengths


class JaxgenTexts:
    """`translator.translate`, strings in and strings out: a unit of `run` is one call on B texts.

    Words, batches and texts are in the time, which no peer here does. With the host devices that
    the command line asks for, one a core. Each token of the case is a word.

    Args:
        case: the fields of a `Seq2SeqCase`.
    """

    def __init__(self, case: dict[str, Any]):
        from jaxgen.config.tokenizer import TokenizerConfig
        from jaxgen.data.vocabulary import build_tokenizer
        from jaxgen.generation.translator import Translator

        request_host_devices()
        self.case = Seq2SeqCase(**case)
        words = " ".join(f"w{number:05d}" for number in range(FIRST, self.case.V))
        kind = TokenizerConfig(kind="word", vocab_size=None)
        tokenizer = build_tokenizer(kind, [words], specials=SPECIALS)
        own = dataclasses.replace(self.case, V=tokenizer.vocab_size)
        model = model_of(own)
        self.translator = Translator(
            params=params_of(own, endless=True),
            config=None,
            source_tokenizer=tokenizer,
            tokenizer=tokenizer,
            step_fn=step_fn_of(model),
            prefill_fn=prefill_fn_of(model),
            initial_carry=initial_carry_of(model),
            max_source_length=self.case.longest[0],
        )
        self.calls = [
            [
                " ".join(f"w{token:05d}" for token in row[:length])
                for row, length in zip(tokens, lengths, strict=True)
            ]
            for tokens, lengths in self.case.questions()
        ]
        self.stream = cycle(self.calls)
        started = time.perf_counter()
        self.run(len(self.calls))
        self.compile_seconds = time.perf_counter() - started

    def tokens(self, steps: int) -> list[list[list[int]]]:
        """The words (B, new_tokens) a call, of the first calls, by their numbers; -1 where none."""

        def numbers(text: str) -> list[int]:
            found = [int(word[1:]) for word in text.split()]
            return found + [-1] * (self.case.new_tokens - len(found))

        return [list(map(numbers, self._translated(call))) for call in self.calls[:steps]]

    def run(self, steps: int) -> None:
        """Make so many calls, one after the other."""
        for call in islice(self.stream, steps):
            self._translated(call)

    def _translated(self, texts: list[str]) -> list[str]:
        beams, count = self.case.beams, self.case.new_tokens
        return self.translator.translate(texts, beam_size=beams, max_new_tokens=count)

    facts = JaxgenDecoding.facts
