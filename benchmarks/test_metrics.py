"""Suite: perplexity of a text, and what was copied from the corpus."""

from typing import Any

import jax

from benchmarks import costs
from benchmarks.grid import Entry
from benchmarks.jaxgen_lm import loss_of, model_of, params_of
from benchmarks.texts import CHARACTERS, ids
from jaxgen.data.streams import TokenArray, evaluation_batches
from jaxgen.evaluation.memorisation import distinct, memorisation
from jaxgen.evaluation.sums import make_sums

WINDOWS = 32
TEXTS, LENGTH = 8, 400


def test_perplexity(evaluation_entry: Entry, measure: Any) -> None:
    """Tokens a second of the exact evaluation, batches made on the way."""
    case = evaluation_entry.case
    model, params = model_of(case), params_of(case)
    sums = make_sums(loss_of(model), batches_per_dispatch=WINDOWS)
    tokens = TokenArray(ids()[: WINDOWS * case.B * case.T + 1] % case.V)

    def run(units: int) -> None:
        for _ in range(units):
            batches = evaluation_batches(tokens, case.B, case.T)
            sums(params, model.initial_carry(case.B), batches)

    batch = {"tokens": case.batches(1)[0]}
    arguments = (params, model.initial_carry(case.B), batch, None)
    one_window = jax.jit(loss_of(model)).lower(*arguments).compile()
    measure(
        run,
        suite="metrics",
        shape=evaluation_entry.shape,
        unit="tokens",
        cost=costs.evaluation(case),
        amount=case.B * case.T,
        steps=WINDOWS,
        first_call_compiles=True,
        program_bytes=costs.compiled_bytes(one_window),
    )


def test_memorisation_report(measure: Any) -> None:
    """Bytes of the corpus a second: hashing it, and looking up the spans of eight texts."""
    corpus = ids()
    texts = [corpus[start : start + LENGTH][::-1] for start in range(0, TEXTS * LENGTH, LENGTH)]

    def run(units: int) -> None:
        for _ in range(units):
            memorisation(texts, corpus)

    cost = costs.Cost(0, CHARACTERS)
    measure(run, suite="metrics", unit="bytes", cost=cost, amount=CHARACTERS)


def test_distinct_4(measure: Any) -> None:
    """Tokens a second of distinct-n."""
    texts = list(ids()[: 100 * LENGTH].reshape(100, LENGTH))

    def run(units: int) -> None:
        for _ in range(units):
            distinct(texts, 4)

    amount = 100 * LENGTH
    measure(run, suite="metrics", unit="tokens", cost=costs.Cost(0, amount), amount=amount)
