"""jaxgen's own contestant in training text GANs: the package's step and its roll-outs."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.costs import compiled_bytes
from benchmarks.gan_cases import GanCase
from benchmarks.machine import device_peak
from jaxgen.data.ragged import LabelledBatch
from jaxgen.generation.roll_out import roll_out
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.gan_estimators import TextGan, rollout_returns
from jaxgen.models.gan_steps import discriminator_step_loss, mle_loss, rollout_loss
from jaxgen.models.text_discriminator import CNNDiscriminator
from jaxgen.models.text_gan import GeneratorCondition, TextGenerator, initial_carry_of, real_texts
from jaxgen.training.adversarial_step import Phase, init_adversarial_state, make_adversarial_step
from jaxgen.training.parallel import (
    jit_multi_step,
    make_layout,
    most_devices,
    request_host_devices,
)
from jaxgen.training.phases import PhasedBatch
from jaxgen.training.seeds import SeedLayout, first_states, make_seed_layout

START = 0
STEPS = {"generator": (0,), "discriminator": (1,), "both": (1, 0)}
"""The phases of the steps of a unit."""


def gan_of(case: GanCase) -> TextGan:
    """The case's models."""
    generator = TextGenerator(vocab_size=case.V, hidden_size=case.H, embedding_size=case.E)
    discriminator = CNNDiscriminator(case.V, case.D, case.widths, case.filters)
    return TextGan(generator, discriminator, START)


def params_of(case: GanCase) -> dict[str, Any]:
    """The case's parameters as jaxgen's modules name and order them (kernels transposed)."""
    source = {name: jnp.asarray(x) for name, x in case.parameters().items()}
    layer = {
        "input_kernel": source["weight_ih"].T,
        "recurrent_kernel": source["weight_hh"].T,
        "bias": source["bias"],
    }
    judge: dict[str, Any] = {
        "embedding": source["judge.embedding"],
        "highway_kernel": source["judge.highway.weight"].T,
        "highway_bias": source["judge.highway.bias"],
        "scores": {"kernel": source["judge.head.weight"], "bias": jnp.float32(0)},
    }
    for width, count in zip(case.widths, case.filters, strict=True):
        kernel = source[f"judge.weight.{width}"].transpose(2, 1, 0)
        judge[f"kernel_{width}"] = kernel.reshape(-1, count)
        judge[f"bias_{width}"] = source[f"judge.bias.{width}"]
    generator = {
        "embedding": source["embedding"],
        "lstm": {"layer_0": layer},
        "output_kernel": source["head.weight"].T,
        "output_bias": source["head.bias"],
    }
    return {"generator": generator, "discriminator": judge}


def batch_of(case: GanCase, seed: int) -> LabelledBatch:
    """Texts as the package's batches hold them."""
    tokens = np.pad(case.texts(seed), ((0, 0), (1, 0)), constant_values=START)
    lengths = np.full(case.B, case.T + 1, np.int32)
    return LabelledBatch(tokens, lengths, np.zeros(case.B, np.int32), np.ones(case.B, np.float32))


class JaxgenGan:
    """The contestant: a unit of `run` is one step, or the roll-outs of one batch.

    Args:
        case: the fields of a `GanCase`.
        unit: `rollouts`: N texts from each prefix of each text of a batch; `returns`: and what the
            discriminator says of them; `generator`: a whole step of the generator, which samples
            texts, rolls them out and moves; `discriminator`: one of the discriminator; `both`: this
            and then that.
        seeds: trained together, as `jaxgen train --seeds` does it; 0: one run, on one device.
    """

    def __init__(self, case: dict[str, Any], unit: str, seeds: int = 0):
        if seeds:
            request_host_devices()
        self.case, self.unit, self.seeds = GanCase(**case), unit, seeds
        self.gan, self.params = gan_of(self.case), params_of(self.case)
        self.texts = real_texts(jax.tree.map(jnp.asarray, batch_of(self.case, 0)))
        self.key, self.count = jax.random.key(0), 0
        started = time.perf_counter()
        function: Any
        arguments: Any
        if unit in STEPS:
            function, arguments = self._training()
        else:
            function = jax.jit(self._returns if unit == "returns" else self._roll_out)
            arguments = (self.params, self.key)
        self.program = function.lower(*arguments).compile()
        self.arguments = arguments
        self.run(1)
        self.compile_seconds = time.perf_counter() - started

    def _training(self) -> tuple[Any, tuple[Any, ...]]:
        """The steps of a unit, and their arguments: the state of one run or of all seeds."""
        seeds, phases = self.seeds, np.asarray(STEPS[self.unit], np.int32)
        layout = make_seed_layout(seeds, most_devices(seeds)) if seeds else make_layout(1)
        batch = jax.tree.map(lambda x: np.stack([x] * len(phases)), batch_of(self.case, 0))
        batches = PhasedBatch(batch, np.tile(phases[:, None], (1, self.case.B)))
        if isinstance(layout, SeedLayout):
            keys = list(jax.random.split(self.key, seeds))
            self.state = first_states(self._first_state, keys, layout)
        else:
            self.state = self._first_state(jnp.copy(self.key))  # it is donated
        function = jit_multi_step(make_adversarial_step(self._phases()), layout)
        arguments = self.state, layout.place_batches(batches), np.int32(len(phases))
        return function, arguments

    def _phases(self) -> tuple[Phase, ...]:
        case = self.case
        clipped = optax.chain(
            optax.clip_by_global_norm(5.0), optax.adam(case.generator_rate, eps=1e-8)
        )
        return (
            Phase(
                "generator",
                partial(rollout_loss, self.gan, rollouts=case.rollouts),
                clipped,
                "generator",
            ),
            Phase(
                "discriminator",
                partial(discriminator_step_loss, self.gan),
                optax.adam(case.discriminator_rate),
                "discriminator",
            ),
        )

    def _first_state(self, key: jax.Array) -> Any:
        copy = jax.tree.map(jnp.copy, self.params)
        extra = {"baseline": jnp.float32(0)}
        return init_adversarial_state(copy, self._phases(), key, extra)

    def _roll_out(self, params: Any, key: jax.Array) -> jax.Array:
        case, generator = self.case, params["generator"]
        carry = initial_carry_of(self.gan.generator)(generator, case.B)
        start = jnp.full((case.B,), START, jnp.int32)
        keys = jax.random.split(key, (case.T - 1, case.rollouts, case.B))
        step_fn = step_fn_of(self.gan.generator)
        return roll_out(step_fn, generator, carry, start, self.texts.tokens, keys)

    def _returns(self, params: Any, key: jax.Array) -> jax.Array:
        condition, count = GeneratorCondition(), self.case.rollouts
        return rollout_returns(self.gan, params, self.texts, condition, key, count)

    def figures(self) -> list[float]:
        """The generator's cross-entropy of some texts, and the mean score of others."""
        batch = jax.tree.map(jnp.asarray, batch_of(self.case, 1))
        loss, _ = mle_loss(self.gan, self.params, (), batch, self.key, jnp.int32(0))
        scores, _ = self.gan.scores(self.params, self.texts)
        return [float(loss), float(scores.mean())]

    def worth(self) -> float:
        """The mean return, which another's roll-outs should have, but for chance."""
        return float(jax.jit(self._returns)(self.params, self.key).mean())

    def run(self, steps: int) -> None:
        """Make so many units and wait for the end."""
        for _ in range(steps):
            self.count += 1
            if self.unit in STEPS:
                self.state, done = self.program(self.state, *self.arguments[1:])
            else:
                done = self.program(self.params, jax.random.fold_in(self.key, self.count))
        jax.block_until_ready(done)

    def facts(self) -> dict[str, Any]:
        """Seconds of tracing, compilation and one run; memory by XLA's accounting."""
        held = {"program_bytes": compiled_bytes(self.program)}
        return {"compile_seconds": self.compile_seconds, **held, **device_peak()}
