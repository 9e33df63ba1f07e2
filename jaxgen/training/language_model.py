"""A language model's training: model, optimizer, batches and evaluation from the settings."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import Experiment, ModelConfig
from jaxgen.data.streams import TokenStream, evaluation_batches, evaluation_resets
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.data.tokens import TokenArray, Tokens, TokenSplits
from jaxgen.evaluation.perplexity import Nll, make_evaluator
from jaxgen.models.language_model import LanguageModel, language_model_loss
from jaxgen.training import parallel
from jaxgen.training.dispatches import Dispatches
from jaxgen.training.loop import Result, SampleFn, train
from jaxgen.training.optimizers import make_optimizer, make_schedule
from jaxgen.training.progress import Display, Unit
from jaxgen.training.runs import Run
from jaxgen.training.step import (
    TrainChunk,
    TrainState,
    evaluation_params,
    init_state,
)
from jaxgen.types import PyTree

EVALUATION_ROWS = 16
"""Parts of a text that are evaluated side by side; each starts from a zero carry."""
HASTY = {"xla_backend_optimization_level": 1}
"""Compiler options, on a CPU, of a program that runs once: it compiles in half the time."""


def build_model(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """The Flax module that the settings describe."""
    settings = config.model_dump(exclude={"dtype"})
    return LanguageModel(vocab_size=vocab_size, dtype=jnp.dtype(config.dtype), **settings)


def init_params(model: LanguageModel, key: jax.Array) -> PyTree:
    """Fresh parameters, nested dicts of arrays."""
    return jax.jit(model.init)(key, jnp.zeros((1, 1), jnp.int32))["params"]


def unit_of(tokenizer: Tokenizer) -> Unit:
    """How to show a loss: bits where a token is a character or a byte, else perplexity."""
    return "bpc" if tokenizer.kind in ("char", "byte") else "perplexity"


def reset_id_of(experiment: Experiment, tokenizer: Tokenizer) -> int | None:
    """The <eos> after which the carry starts anew; None where it never does."""
    return tokenizer.eos_id if experiment.data.reset_documents else None


@dataclass(frozen=True)
class Batches:
    """The stream of training batches as the loss takes them."""

    stream: TokenStream
    reset_id: int | None = None
    """See `reset_id_of`."""

    @property
    def windows_per_epoch(self) -> int:
        """Batches in one pass over the text."""
        return self.stream.windows_per_epoch

    def chunk(self, epoch: int, window: int, num_windows: int) -> dict[str, np.ndarray]:
        """Consecutive batches of one epoch, stacked."""
        batch = {"tokens": self.stream.chunk(epoch, window, num_windows)}
        if self.reset_id is not None:
            batch["resets"] = self.stream.resets(epoch, window, num_windows, self.reset_id)
        return batch


def held_out_batches(
    tokens: Tokens, length: int, reset_id: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of `make_text_evaluator`, whose arguments these are."""
    parts = evaluation_batches(tokens, EVALUATION_ROWS, length)
    if reset_id is None:
        yield from ({"tokens": ids, "mask": mask} for ids, mask in parts)
        return
    resets = evaluation_resets(tokens, EVALUATION_ROWS, length, reset_id)
    for (ids, mask), reset in zip(parts, resets, strict=True):
        yield {"tokens": ids, "mask": mask, "resets": reset}


def make_text_evaluator(
    model: LanguageModel, length: int, reset_id: int | None = None
) -> Callable[[PyTree, Tokens], Nll]:
    """`nll(params, tokens)` of a whole text, each token but the first counted once.

    Args:
        model: The module.
        length: Tokens read at once; it changes the speed, not the figure.
        reset_id: See `reset_id_of`.
    """
    # The backend that training insists on may know no masks, or not be here.
    evaluate = make_evaluator(partial(language_model_loss, model.clone(backend="auto")))

    def nll(params: PyTree, tokens: Tokens) -> Nll:
        batches = held_out_batches(tokens, length, reset_id)
        return evaluate(params, model.initial_carry(EVALUATION_ROWS), batches)

    return nll


class LanguageModelTraining:
    """The pieces of one training, checked before the run directory is made."""

    def __init__(self, experiment: Experiment, tokenizer: Tokenizer, splits: TokenSplits) -> None:
        """UserError where the text is too short."""
        config, rule = experiment.training, experiment.optimizer
        self.experiment, self.tokenizer, self.splits = experiment, tokenizer, splits
        self.reset_id = reset_id_of(experiment, tokenizer)
        stream = TokenStream(splits.train, config.batch_size, config.sequence_length)
        self.batches = Batches(stream, self.reset_id)
        self.dispatches = Dispatches(self.batches, config)
        self.model = build_model(experiment.model, tokenizer.vocab_size)
        self.schedule = make_schedule(
            learning_rate=rule.learning_rate,
            schedule=rule.schedule,
            warmup_steps=rule.warmup_steps,
            total_steps=self.dispatches.total,
            final_fraction=rule.final_fraction,
        )
        self.tx = make_optimizer(
            name=rule.name,
            learning_rate=self.schedule,
            clip_norm=rule.clip_norm,
            weight_decay=rule.weight_decay,
            momentum=rule.momentum,
            b1=rule.b1,
            b2=rule.b2,
        )

    def run(
        self, run: Run, sample_fn: SampleFn | None = None, display: Display | None = None
    ) -> Result:
        """Train where the run stands, see `jaxgen.training.loop.train`."""
        config, held_out = self.experiment.training, self.splits.validation
        display = display or Display(self.dispatches.total, unit_of(self.tokenizer))
        nll = make_text_evaluator(self.model, config.sequence_length, self.reset_id)

        def rehearse(params: PyTree) -> None:
            """Compile what an evaluation takes."""
            if held_out is not None:
                nll(params, TokenArray(held_out.read(0, 2)))
            if sample_fn is not None:
                sample_fn(params)

        layout, chunk = self.layout_and_chunk(run, display, rehearse)
        (result,) = train(
            self.state(),
            chunk,
            self.batches,
            None if held_out is None else lambda params: {"nll": nll(params, held_out).mean},
            [run],
            config,
            initial_carry=self.model.initial_carry(config.batch_size),
            layout=layout,
            learning_rate=jax.jit(self.schedule),
            sample_fn=sample_fn,
            unit=unit_of(self.tokenizer),
            display=display,
        )
        return result

    def state(self) -> TrainState:
        """The state before the first step."""
        return self._state(jax.random.key(self.experiment.training.seed))

    @cached_property
    def _state(self) -> Callable[[jax.Array], TrainState]:
        """`state_of` as one program: a run should not begin by compiling dozens."""
        options = HASTY if jax.default_backend() == "cpu" else None
        return jax.jit(self.state_of, compiler_options=options)

    def _blank_state(self) -> TrainState:
        """Zeros in the place of a state, but no key: enough to compile against."""
        shapes = jax.eval_shape(self._state, jax.random.key(0))
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes._replace(key=()))

    def state_of(self, key: jax.Array) -> TrainState:
        """The state before the first step, from the key of a seed."""
        config = self.experiment.training
        return init_state(
            init_params(self.model, jax.random.fold_in(key, 0)),
            self.tx,
            jax.random.fold_in(key, 1),
            carry=self.model.initial_carry(config.batch_size),
            averaging=config.averaging,
        )

    def chunk_on(self, layout: parallel.Layout, model: LanguageModel) -> TrainChunk:
        """The steps of a model on the devices of a layout."""
        config = self.experiment.training
        loss_fn = partial(
            language_model_loss,
            model,
            activation_penalty=config.activation_penalty,
            temporal_penalty=config.temporal_penalty,
        )
        return parallel.make_chunk(
            loss_fn,
            self.tx,
            layout,
            accumulate=config.accumulate_steps,
            averaging=config.averaging,
            ema_decay=config.ema_decay,
        )

    def layout_and_chunk(
        self, run: Run, display: Display, rehearse: Callable[[PyTree], None]
    ) -> tuple[parallel.Layout, TrainChunk]:
        """The compiled steps, on the devices where they run fastest.

        That is measured once in the life of a run and noted there, because another number of
        devices draws other dropout masks and adds in another order. Meanwhile `rehearse` is
        called with parameters, so that what it needs is compiled beside the steps.
        """
        config = self.experiment.training
        wanted = run.notes.get("devices", config.devices)
        counts = parallel.candidate_devices(wanted, config.batch_size)
        layouts = {count: parallel.make_layout(count) for count in reversed(counts)}
        candidates = {n: (at, self.chunk_on(at, self.model)) for n, at in layouts.items()}
        steps = min(self.dispatches.capacity, self.dispatches.epoch_steps)
        batches = self.dispatches.read(0, steps)
        with ThreadPoolExecutor(1) as aside:  # XLA compiles outside Python's lock
            layout, chunk = candidates[counts[-1]]
            params = evaluation_params(layout.place_state(self._blank_state()))
            rehearsal = aside.submit(rehearse, layout.local(params))
            inputs = layout.place_batches(batches, accumulate=config.accumulate_steps)
            chunk(layout.place_state(self.state()), inputs, np.int32(0))  # no step: only compiled
        rehearsal.result()
        devices = counts[-1]
        if len(counts) > 1:
            seconds = parallel.measure_devices(
                candidates,
                self.state,
                batches,
                accumulate=config.accumulate_steps,
                total_steps=self.dispatches.total,
            )
            devices = parallel.fastest(seconds)
            if len(seconds) > 1:
                times = [f"{1e3 * s:.2f} ms a step on {n}" for n, s in seconds.items()]
                display.line(f"devices: {', '.join(times)}; training on {devices}")
        run.note(devices=devices)
        return candidates[devices]
