"""jaxgen's contestants in steered sampling: guided, by several models, or constrained."""

from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import costs
from benchmarks.cases import Case
from benchmarks.texts import text
from jaxgen.generation.automata import Automaton, over_tokens
from jaxgen.generation.constrained import constrained, constrained_carry
from jaxgen.generation.decoding import Prepared, prepared
from jaxgen.generation.ensemble import ensemble, ensemble_carry
from jaxgen.generation.generate import generate
from jaxgen.generation.guidance import guided, guided_carry, mixture, mixture_carry
from jaxgen.generation.utf8 import over_bytes, utf8_automaton
from jaxgen.models.decoding import initial_carry_of, step_fn_of
from jaxgen.models.language_model import LanguageModel
from jaxgen.types import Array

LABELS = 6
"""Without the null label, whose id this is."""
MEMBERS = 8
SENTENCES = "([a-z]{1,9}( [a-z]{1,9}){0,9}[,.] )*"
"""An expression that any text may go on under, so that all contestants draw as many tokens."""

PLAIN = "plain"
GUIDED = "guided"
PRODUCT = f"ensemble of {MEMBERS}, product"
AVERAGE = f"ensemble of {MEMBERS}, average"
UTF8 = "constrained, UTF-8"
REGEX = "constrained, expression"


class Steered(NamedTuple):
    """A step function with what it needs, and how much of the model it runs."""

    step_fn: Any
    params: Any
    carry: Any
    rows: int = 1
    """Of the model, for each text."""
    models: int = 1


def model_of(case: Case) -> LanguageModel:
    """A labelled model, tied where it has an embedding."""
    return LanguageModel(
        vocab_size=case.V,
        hidden_size=case.H,
        num_layers=case.L,
        embedding_size=case.E,
        tied=case.E > 0,
        num_labels=LABELS + 1,
    )


def params_of(model: LanguageModel, count: int = 1) -> Any:
    """Parameters of so many models, stacked on axis 0."""
    keys = jax.random.split(jax.random.key(0), count)
    return jax.jit(jax.vmap(model.init, (0, None)))(keys, jnp.zeros((1, 1), jnp.int32))["params"]


def first_of(params: Any) -> Any:
    return jax.tree.map(lambda x: x[0], params)


def _plain(model: LanguageModel, labels: Array) -> Steered:
    params = first_of(params_of(model))
    return Steered(step_fn_of(model), params, model.initial_carry(len(labels), labels))


def _guided(model: LanguageModel, labels: Array) -> Steered:
    params = first_of(params_of(model))
    carry = guided_carry(initial_carry_of(model), params, labels, LABELS, 2.0)
    return Steered(guided(step_fn_of(model)), params, carry, rows=2)


def _mixture(model: LanguageModel, labels: Array) -> Steered:
    params = first_of(params_of(model))
    pairs = jnp.stack([labels, (labels + 1) % LABELS], axis=1)
    carry = mixture_carry(initial_carry_of(model), params, pairs, LABELS, [0.7, 0.3])
    return Steered(mixture(step_fn_of(model)), params, carry, rows=3)


def _ensemble(mode: str, model: LanguageModel, labels: Array) -> Steered:
    params = params_of(model, MEMBERS)
    carry = ensemble_carry(initial_carry_of(model), params, len(labels), labels, mode=mode)
    return Steered(ensemble(step_fn_of(model), mode), params, carry, models=MEMBERS)


def _constrained(
    automaton_of: Callable[[int], Automaton], model: LanguageModel, labels: Array
) -> Steered:
    plain = _plain(model, labels)
    step_fn = constrained(plain.step_fn, automaton_of(model.vocab_size))
    return Steered(step_fn, plain.params, constrained_carry(plain.carry, len(labels), 1))


@lru_cache
def of_sentences(vocab_size: int) -> Automaton:
    """The automaton of `SENTENCES` over byte-level pieces."""
    from jaxgen.config import TokenizerConfig
    from jaxgen.data.regex_automaton import regex_automaton
    from jaxgen.data.vocabulary import build_tokenizer

    config = TokenizerConfig(kind="bpe", vocab_size=vocab_size)
    tokenizer = build_tokenizer(config, [text()[:200_000]])
    return over_tokens(*over_bytes(*regex_automaton(SENTENCES)), tokenizer)


KINDS: dict[str, Callable[[LanguageModel, Array], Steered]] = {
    PLAIN: _plain,
    GUIDED: _guided,
    "mixture of 2": _mixture,
    PRODUCT: partial(_ensemble, "product"),
    AVERAGE: partial(_ensemble, "average"),
    UTF8: partial(_constrained, utf8_automaton),
    REGEX: partial(_constrained, of_sentences),
}


def kinds_of(case: Case) -> list[str]:
    """Contestants of a case: a model of bytes is constrained to UTF-8, one of pieces to `REGEX`."""
    if not case.E:
        return [kind for kind in KINDS if kind != REGEX]
    wanted = ("interegular", "pydantic", "tokenizers")
    missing = [name for name in wanted if not find_spec(name)]
    if missing:
        print(f"{REGEX} does not take part: {' and '.join(missing)} not installed")
    return [kind for kind in KINDS if kind != UTF8 and not (missing and kind == REGEX)]


class Sampling:
    """The contestant: a unit of `run` is one call that gives each row `case.T` new tokens."""

    def __init__(self, case: Case, kind: str):
        self.case = case
        labels = jnp.arange(case.B, dtype=jnp.int32) % LABELS
        self.steered = KINDS[kind](model_of(case), labels)
        self.step_fn = Prepared(self.steered.step_fn)
        self.params = jax.jit(prepared, static_argnums=0)(self.steered.step_fn, self.steered.params)
        self.prompt = np.full((case.B, 1), ord("a"), np.int32)

    def tokens(self, seed: int) -> np.ndarray:
        """New tokens [B, T]."""
        out = generate(
            self.step_fn,
            self.params,
            self.steered.carry,
            self.prompt,
            None,
            seed,
            max_new_tokens=self.case.T,
            num_logprobs=None,
        )
        return np.asarray(out.tokens)

    def run(self, calls: int) -> None:
        for seed in range(calls):
            self.tokens(seed)

    def cost(self) -> costs.Cost:
        """Of one token a row; joining the logits is not in it."""
        rows, models = self.steered.rows, self.steered.models
        one = costs.sampler_step(Case(**{**self.case.as_dict(), "B": rows * self.case.B}))
        return costs.Cost(models * one.flops, models * one.traffic)
