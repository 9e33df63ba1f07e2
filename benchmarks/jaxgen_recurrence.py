"""jaxgen's contestant in the recurrence alone: one `jaxgen.nn.LSTM` layer on dense inputs."""

import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cases import Case
from benchmarks.costs import compiled_bytes
from benchmarks.machine import device_peak
from benchmarks.variants import unroll_scans
from jaxgen.nn.lstm import LSTM


class JaxgenRecurrence:
    """The contestant: a unit of `run` is one pass over B rows of T steps.

    Args:
        case: the fields of a `Case` with E = H.
        backend: of the recurrence.
        dtype: compute type.
        precision: of float32 products: `float32` or `tensorfloat32`.
        unroll: steps of a scan in one trip; None: as jaxgen has it.
    """

    def __init__(
        self,
        case: dict[str, Any],
        backend: str = "scan",
        dtype: str = "float32",
        precision: str | None = None,
        unroll: int | None = None,
    ):
        unroll_scans(unroll)
        self.precision = precision
        self.case = Case(**case)
        source = self.case.parameters()
        layer = {
            "input_kernel": jnp.asarray(source["weight_ih.0"].T),
            "recurrent_kernel": jnp.asarray(source["weight_hh.0"].T),
            "bias": jnp.asarray(source["bias.0"]),
        }
        self.params = {"params": {"layer_0": layer}}
        inputs, cotangent = self.case.signals()
        self.inputs = jnp.asarray(inputs).astype(dtype)
        self.cotangent = jnp.asarray(cotangent).astype(dtype)
        self.model = LSTM((self.case.H,), dtype=jnp.dtype(dtype), backend=backend, time_major=True)
        self.choose("forward")

    def choose(self, mode: str) -> None:
        """Compile `forward` (hidden states), or `both`: and the gradients of weights and inputs."""

        def forward(params: Any, inputs: jax.Array) -> jax.Array:
            return self.model.apply(params, inputs)[1]

        def both(params: Any, inputs: jax.Array, cotangent: jax.Array) -> Any:
            hidden, back = jax.vjp(forward, params, inputs)
            return hidden, back(cotangent.astype(hidden.dtype))

        arguments = (self.params, self.inputs)
        arguments += (self.cotangent,) if mode == "both" else ()
        started = time.perf_counter()
        with jax.default_matmul_precision(self.precision):
            program = jax.jit(both if mode == "both" else forward)
            self.program = program.lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - started
        self.call = lambda: self.program(*arguments)

    def check(self) -> list[float]:
        """Mean absolute values of what one pass returns, to be held against the others'."""
        found = jax.tree.leaves(self.call())
        hidden = found[0].astype(jnp.float32)
        return [float(jnp.abs(hidden).mean()), float(jnp.abs(hidden[-1]).mean())]

    def run(self, steps: int) -> None:
        """Make so many passes and wait for the last."""
        for _ in range(steps):
            out = self.call()
        jax.block_until_ready(out)

    def facts(self) -> dict[str, Any]:
        """Compile time, and memory: the program's by XLA's accounting, the device's peak."""
        known = {"compile_seconds": self.compile_seconds}
        return {**known, "program_bytes": compiled_bytes(self.program), **device_peak()}
