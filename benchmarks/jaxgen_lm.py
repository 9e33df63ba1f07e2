"""jaxgen's own contestant in training: the package's step functions on a case's parameters."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.cases import Case
from benchmarks.costs import compiled_bytes
from benchmarks.machine import device_peak
from benchmarks.variants import unroll_scans
from jaxgen.models.language_model import LanguageModel, language_model_loss
from jaxgen.ops.cross_entropy import cross_entropy
from jaxgen.ops.lookup import lookup
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.parallel import jit_multi_step, make_layout, request_host_devices
from jaxgen.training.step import LossFn, init_state, make_train_step
from jaxgen.types import LossAux, Sum


def model_of(case: Case, dtype: str = "float32", backend: str = "auto") -> LanguageModel:
    return LanguageModel(
        vocab_size=case.V,
        hidden_size=case.H,
        num_layers=case.L,
        embedding_size=case.E,
        dtype=jnp.dtype(dtype),
        backend=backend,
    )


def params_of(case: Case) -> dict[str, Any]:
    """The case's parameters as jaxgen's module names and orders them (kernels transposed)."""
    source = case.parameters()
    params: dict[str, Any] = {
        "lstm": {
            f"layer_{layer}": {
                "input_kernel": jnp.asarray(source[f"weight_ih.{layer}"].T),
                "recurrent_kernel": jnp.asarray(source[f"weight_hh.{layer}"].T),
                "bias": jnp.asarray(source[f"bias.{layer}"]),
            }
            for layer in range(case.L)
        },
        "output_kernel": jnp.asarray(source["head.weight"].T),
        "output_bias": jnp.asarray(source["head.bias"]),
    }
    if case.E:
        params["embedding"] = jnp.asarray(source["embedding"])
    return params


def loss_of(model: LanguageModel) -> LossFn:
    """The package's loss: tokens are left to the first layer, which folds its input projection."""

    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        del key  # no dropout
        return language_model_loss(model, params, carry, batch)

    return loss_fn


def unfolded_loss_of(model: LanguageModel) -> LossFn:
    """The same loss as the peers compute it: dense inputs and one projection of every step."""

    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        del key
        tokens = batch["tokens"].T

        def run(model: LanguageModel) -> Any:
            if model.embedding_size:
                inputs = lookup(model.embedding, tokens[:-1])
            else:
                inputs = jax.nn.one_hot(tokens[:-1], model.vocab_size)
            layers, hidden = model.lstm(inputs, carry.layers)
            return carry._replace(layers=layers), model.logits(hidden)

        after, logits = nn.apply(run, model)({"params": params})
        nll = cross_entropy(logits, tokens[1:])
        count = jnp.asarray(nll.size, jnp.float32)
        return nll.mean(), LossAux(after, {"nll": Sum(nll.sum(), count)}, count)

    return loss_fn


class JaxgenTraining:
    """The contestant: `pool` optimizer steps a dispatch, the batches already on the device.

    Args:
        case: the fields of a `Case`.
        devices: host devices of data parallelism.
        folded: fold the first layer's input projection into a table.
        dtype: compute type.
        backend: of the recurrence.
        pool: batches on the device, and optimizer steps a dispatch.
        unroll: steps of a scan in one trip; None: as jaxgen has it.
    """

    case_type: type[Case] = Case
    model_of = staticmethod(model_of)
    params_of = staticmethod(params_of)

    def __init__(
        self,
        case: dict[str, Any],
        devices: int = 1,
        folded: bool = True,
        dtype: str = "float32",
        backend: str = "auto",
        pool: int = 16,
        unroll: int | None = None,
    ):
        unroll_scans(unroll)
        request_host_devices(devices)
        self.case = self.case_type(**case)
        self.pool = pool
        self.model = self.model_of(self.case, dtype, backend)
        loss_fn = (loss_of if folded else unfolded_loss_of)(self.model)
        self.tx = make_optimizer(
            name="adam",
            learning_rate=self.case.learning_rate,
            clip_norm=self.case.clip_norm,
        )
        self.layout = make_layout(devices)
        self.batches = self.layout.place_batches({"tokens": self.case.batches(pool)})
        self.reset()
        started = time.perf_counter()
        train_step = make_train_step(loss_fn, self.tx, axis_name=self.layout.axis_name)
        steps = jit_multi_step(train_step, self.layout)
        self.multi_step = steps.lower(self.state, self.batches, jnp.int32(pool)).compile()
        self.compile_seconds = time.perf_counter() - started

    def reset(self) -> None:
        """Back to the starting parameters, a zero carry and the first batch."""
        carry = self.model.initial_carry(self.case.B)
        state = init_state(self.params_of(self.case), self.tx, jax.random.key(0), carry=carry)
        self.state = self.layout.place_state(state)

    def losses(self, steps: int) -> list[float]:
        """Losses of the first steps, each before its update."""
        if steps > self.pool:
            raise ValueError(f"`steps` must be at most the pool of {self.pool}, got {steps}")
        self.reset()
        self.state, metrics = self.multi_step(self.state, self.batches, jnp.int32(steps))
        return [float(loss) for loss in np.asarray(metrics.loss)[:steps]]

    def run(self, steps: int) -> None:
        """Train and wait for the end."""
        while steps > 0:
            now = min(steps, self.pool)
            self.state, metrics = self.multi_step(self.state, self.batches, jnp.int32(now))
            steps -= now
        jax.block_until_ready((self.state, metrics))

    def facts(self) -> dict[str, Any]:
        """Compile time, and memory: the program's by XLA's accounting, the device's peak."""
        one = compiled_bytes(self.multi_step)
        known = {"compile_seconds": self.compile_seconds}
        return {**known, "program_bytes": one and one * self.layout.devices, **device_peak()}
