"""jaxgen's own contestants in sampling: `generate` on arrays, and `lm.generate` on strings."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case
from benchmarks.costs import compiled_bytes
from benchmarks.jaxgen_lm import model_of, params_of
from benchmarks.machine import device_peak
from benchmarks.variants import unroll_scans
from jaxgen.generation.generate import generate
from jaxgen.generation.sampling import SamplingParams
from jaxgen.models.decoding import initial_carry_of, step_fn_of
from jaxgen.models.language_model import prefill_fn_of

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 1.0},
    "top_k": {"temperature": 1.0, "top_k": 50},
    "top_p": {"temperature": 1.0, "top_p": 0.95},
}


class JaxgenSampling:
    """The contestant: each unit of `run` is one call that gives every row `case.T` new tokens.

    Args:
        case: the fields of a `Case`.
        sampling: a key of `SETTINGS`, or `model` for a loop that makes the logits and draws
            nothing: the floor under the others.
        dtype: compute type.
        inside_jit: call it from one compiled program, as research code does, instead of from
            Python, where every call is checked.
        unroll: steps of a scan in one trip; None: as jaxgen has it.
    """

    case_type: type[Case] = Case
    model_of = staticmethod(model_of)
    params_of = staticmethod(params_of)

    def __init__(
        self,
        case: dict[str, Any],
        sampling: str = "temperature",
        dtype: str = "float32",
        inside_jit: bool = False,
        unroll: int | None = None,
    ):
        unroll_scans(unroll)
        self.case = self.case_type(**case)
        self.model = self.model_of(self.case, dtype)
        self.step_fn = step_fn_of(self.model)
        self.params = self.params_of(self.case)
        self.carry = self.model.initial_carry(self.case.B)
        self.prompt = np.arange(self.case.B, dtype=np.int32)[:, None] % self.case.V
        self.settings = SamplingParams(**SETTINGS.get(sampling, {}))
        self.program: Any = None
        started = time.perf_counter()
        if sampling == "model":
            self.call = self._model_only()
        elif inside_jit:
            self.call = self._compiled()
        else:
            self.call = self._generate
            jax.block_until_ready(self.call(0))
        self.compile_seconds = time.perf_counter() - started

    def _generate(self, seed: int) -> jax.Array:
        return self._tokens(self.settings, self.case.T, seed)

    def _compiled(self) -> Any:
        """`generate` inside this caller's own `jit`."""

        @jax.jit
        def call(params: Any, carry: Any, prompt: jax.Array, key: jax.Array) -> jax.Array:
            length = self.case.T
            settings = self.settings
            return generate(
                self.step_fn, params, carry, prompt, None, key, settings, max_new_tokens=length
            ).tokens

        arguments = (self.params, self.carry, jnp.asarray(self.prompt))
        self.program = call.lower(*arguments, jax.random.key(0)).compile()
        return lambda seed: self.program(*arguments, jax.random.key(seed))

    def _tokens(self, settings: SamplingParams, length: int, seed: int) -> jax.Array:
        out = generate(
            self.step_fn,
            self.params,
            self.carry,
            self.prompt,
            None,
            seed,
            settings,
            max_new_tokens=length,
        )
        return out.tokens

    def _model_only(self) -> Any:
        """A scan of the step function, whose logits are made but not looked at."""

        @jax.jit
        def loop(params: Any, carry: Any, tokens: jax.Array) -> jax.Array:
            prepared = self.step_fn.prepare(params)

            def step(state: Any, _: None) -> Any:
                carry, tokens = state
                carry, logits = self.step_fn(prepared, carry, tokens)
                logits = jax.lax.optimization_barrier(logits)  # all of them, though one is used
                tokens = (tokens + 1 + (logits[:, 0] > 1e9).astype(jnp.int32)) % self.case.V
                return (carry, tokens), tokens

            return jax.lax.scan(step, (carry, tokens), length=self.case.T)[1]

        arguments = (self.params, self.carry, jnp.asarray(self.prompt[:, 0]))
        self.program = loop.lower(*arguments).compile()
        return lambda seed: self.program(*arguments)

    def run(self, steps: int) -> None:
        """Make so many calls; the tokens of each come to the host."""
        for seed in range(steps):
            np.asarray(self.call(seed))

    def greedy(self, steps: int) -> list[list[int]]:
        """Most likely tokens (B, steps), to be compared with the other contestants'."""
        return np.asarray(self._tokens(SamplingParams(temperature=0.0), steps, 0)).tolist()

    def facts(self) -> dict[str, Any]:
        """Seconds of tracing and compilation (outside a jit with one run), and memory."""
        known = {"compile_seconds": self.compile_seconds, **device_peak()}
        return known | ({"program_bytes": compiled_bytes(self.program)} if self.program else {})


class JaxgenText:
    """`lm.generate`, string in and strings out, on a character model with random parameters.

    With the host devices that the command line asks for, one a core.

    Args:
        case: the fields of a `Case`; a unit of `run` makes `B` texts of `T` characters.
        warm: make a first call at once.
    """

    def __init__(self, case: dict[str, Any], warm: bool = True):
        from jaxgen.config import (
            LanguageModelConfig,
            LanguageModelExperiment,
            TokenizerConfig,
        )
        from jaxgen.data.vocabulary import build_tokenizer
        from jaxgen.generation.text import TextModel
        from jaxgen.training.parallel import request_host_devices

        request_host_devices()
        self.case = Case(**case)
        kind = TokenizerConfig(kind="char")
        letters = "".join(chr(ord("0") + index) for index in range(self.case.V))
        tokenizer = build_tokenizer(kind, [letters])
        case_of_text = Case(**{**case, "V": tokenizer.vocab_size})
        model = model_of(case_of_text)
        config = LanguageModelConfig(hidden_size=self.case.H, num_layers=self.case.L)
        self.lm = TextModel(
            params=params_of(case_of_text),
            config=LanguageModelExperiment(model=config, tokenizer=kind),
            tokenizer=tokenizer,
            step_fn=step_fn_of(model),
            prefill_fn=prefill_fn_of(model),
            initial_carry=initial_carry_of(model),
        )
        started = time.perf_counter()
        self.run(1 if warm else 0)
        self.first_call_seconds = time.perf_counter() - started

    def run(self, steps: int) -> None:
        """Make so many calls of `case.B` texts each, from a prompt of ten characters."""
        options = {"n": self.case.B, "max_new_tokens": self.case.T, "temperature": 1.0}
        for seed in range(steps):
            self.lm.generate("0123456789", key=seed, **options)

    def facts(self) -> dict[str, Any]:
        """Seconds of the first call: tracing, compilation and one run."""
        return {"compile_seconds": self.first_call_seconds}
