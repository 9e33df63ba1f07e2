"""Plain JAX: Flax's `nn.RNN` with `OptimizedLSTMCell`, one jitted step a batch."""

import time
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from benchmarks.cases import Case, cycle
from benchmarks.costs import compiled_bytes
from benchmarks.machine import device_peak


class LanguageModel(nn.Module):
    """One-hot or embedded tokens, `nn.RNN` layers, a dense head."""

    case: Case

    @nn.compact
    def __call__(self, tokens: jax.Array, carry: tuple) -> tuple[tuple, jax.Array]:
        """(B, T) tokens and one (c, h) a layer, to the next carry and (B, T, V) logits."""
        case = self.case
        if case.E:
            hidden = nn.Embed(case.V, case.E, name="embedding")(tokens)
        else:
            hidden = jax.nn.one_hot(tokens, case.V)
        after = []
        for layer in range(case.L):
            cell = nn.OptimizedLSTMCell(case.H, name=f"cell_{layer}")
            end, hidden = nn.RNN(cell, return_carry=True)(hidden, initial_carry=carry[layer])
            after.append(end)
        return tuple(after), nn.Dense(case.V, name="head")(hidden)


def params_of(case: Case) -> dict[str, Any]:
    """The case's parameters under Flax's names: one kernel a gate, the bias on the recurrent."""
    source = case.parameters()
    params: dict[str, Any] = {
        "head": {
            "kernel": jnp.asarray(source["head.weight"].T),
            "bias": jnp.asarray(source["head.bias"]),
        }
    }
    if case.E:
        params["embedding"] = {"embedding": jnp.asarray(source["embedding"])}
    for layer in range(case.L):
        cell: dict[str, Any] = {}
        for index, gate in enumerate("ifgo"):
            rows = slice(index * case.H, (index + 1) * case.H)
            cell[f"i{gate}"] = {"kernel": jnp.asarray(source[f"weight_ih.{layer}"][rows].T)}
            cell[f"h{gate}"] = {
                "kernel": jnp.asarray(source[f"weight_hh.{layer}"][rows].T),
                "bias": jnp.asarray(source[f"bias.{layer}"][rows]),
            }
        params[f"cell_{layer}"] = cell
    return params


class FlaxTraining:
    """The contestant: a jitted, donated step, dispatched from Python once a batch."""

    def __init__(self, case: dict[str, Any], pool: int = 16):
        self.case = Case(**case)
        self.model = LanguageModel(self.case)
        self.tx = optax.chain(
            optax.clip_by_global_norm(self.case.clip_norm), optax.adam(self.case.learning_rate)
        )
        self.batches = [jnp.asarray(window) for window in self.case.batches(pool)]
        self.reset()
        started = time.perf_counter()
        step = jax.jit(self.step, donate_argnums=(0, 1, 2))
        self.compiled = step.lower(*self.state, self.batches[0]).compile()
        self.compile_seconds = time.perf_counter() - started

    def reset(self) -> None:
        """Back to the starting parameters, a zero carry and the first batch."""
        case = self.case
        params = params_of(case)
        carry = tuple(
            (jnp.zeros((case.B, case.H)), jnp.zeros((case.B, case.H))) for _ in range(case.L)
        )
        self.state = (params, self.tx.init(params), carry)
        self.stream = cycle(self.batches)

    def step(self, params: Any, opt_state: Any, carry: Any, tokens: jax.Array) -> tuple:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            after, logits = self.model.apply({"params": params}, tokens[:, :-1], carry)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return losses.mean(), after

        (loss, after), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = self.tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, after), loss

    def losses(self, steps: int) -> list[float]:
        """Losses of the first steps, each before its update."""
        self.reset()
        return [self.advance(tokens) for tokens in islice(self.stream, steps)]

    def advance(self, tokens: jax.Array) -> float:
        self.state, loss = self.compiled(*self.state, tokens)
        return float(loss)

    def run(self, steps: int) -> None:
        """Train and wait for the end."""
        for tokens in islice(self.stream, steps):
            self.state, _ = self.compiled(*self.state, tokens)
        jax.block_until_ready(self.state)

    def facts(self) -> dict[str, Any]:
        """Compile time, and memory: the program's by XLA's accounting, the device's peak."""
        known = {"compile_seconds": self.compile_seconds}
        return {**known, "program_bytes": compiled_bytes(self.compiled), **device_peak()}
