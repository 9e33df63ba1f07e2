"""Language models that adapt to the text they read: settings chosen on held-out text, figures."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data.corpora import Source, load_corpus
from jaxgen.data.streams import TokenArray, evaluation_batches
from jaxgen.errors import UserError
from jaxgen.evaluation.cache import LAMBDAS, THETAS, cache_nll
from jaxgen.evaluation.dynamic import Rule, descent, make_dynamic_nll, rms_rule
from jaxgen.evaluation.perplexity import Nll, bits, perplexity
from jaxgen.generation.cache import check_setting
from jaxgen.generation.checks import check_at_least_one
from jaxgen.generation.text import TextModel
from jaxgen.models.language_model import LanguageModel, language_model_loss
from jaxgen.models.token_nll import token_nll
from jaxgen.tasks.texts import EVALUATION_ROWS, encode_text, reset_id_of, unit_of
from jaxgen.types import PyTree

ADAPTED_OPTIONS = (
    "cache",
    "cache_theta",
    "cache_lambda",
    "dynamic",
    "dynamic_rate",
    "dynamic_rule",
)
"""What `evaluate` takes for them."""
RATES = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "rms": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
}
"""Rates of dynamic evaluation to choose from, by rule."""
DECAY = 0.01
"""Of the rule "rms"."""
TUNED_TOKENS = 20_000
"""Validation tokens that the rate of dynamic evaluation is chosen on, at most."""


class Reader(NamedTuple):
    """A trained language model, and how it reads the texts of its corpus."""

    model: LanguageModel
    """An ensemble has none, and does not adapt."""
    params: PyTree
    encode: Callable[[Source], TokenArray]
    batches: Callable[[TokenArray, int], Iterable[dict[str, np.ndarray]]]
    """(tokens, rows): all of them in their order."""
    figures: Callable[[float], dict[str, float]]
    """What to show of nats per token."""
    part: Callable[[str], Source | None]
    """A part of the corpus it was trained on."""


def reader_of(lm: TextModel) -> Reader:
    """A model that `language_model.load` made, and how it reads texts."""
    experiment, tokenizer = lm.config, lm.tokenizer
    length, reset_id = experiment.training.sequence_length, reset_id_of(experiment, tokenizer)
    model: Any = getattr(lm.step_fn, "model", None)

    def figures(nll: float) -> dict[str, float]:
        found = {"nll": nll, "perplexity": perplexity(nll)}
        return found | ({"bpc": bits(nll)} if unit_of(tokenizer) == "bpc" else {})

    return Reader(
        model and model.clone(backend="auto"),
        lm.params,
        lambda source: TokenArray(encode_text(source, tokenizer, warn=False)),
        lambda tokens, rows: evaluation_batches(tokens, rows, length, reset_id=reset_id),
        figures,
        # Opened anew: where other files are measured, they stand in the place of the training text.
        lambda part: getattr(load_corpus(experiment.data), part),
    )


def check_adapted(options: Mapping[str, Any], *, plain: bool) -> None:
    """UserError for options that are out of range or do not go together.

    Args:
        options: Of `evaluate`, by the names in `ADAPTED_OPTIONS`; all that are there are given.
        plain: Whether one model is measured by the protocol "exact".
    """
    for name in ("cache", "dynamic"):
        if options.get(name) and not plain:
            raise UserError(
                f"`{name}` measures one model by the protocol exact; leave it out, or `protocol` "
                "and `ensemble`"
            )
        for given in options:
            if given.startswith(f"{name}_") and not options.get(name):
                raise UserError(f"`{given}` is for `{name}`: leave it out, or give `{name}`")
    check_cache(options.get("cache"), options.get("cache_theta"), options.get("cache_lambda"))
    rate, rule = options.get("dynamic_rate"), options.get("dynamic_rule", "sgd")
    if rate is not None and not 0 < rate < np.inf:
        raise UserError(f"`dynamic_rate` must be above 0, and finite, got {rate:g}")
    if rule not in RATES:
        raise UserError(f"`dynamic_rule` must be one of {', '.join(RATES)}, got {rule!r}")


def check_cache(window: int | None, theta: float | None, lambda_: float | None) -> None:
    """UserError for settings of a cache that are out of their range."""
    if window is not None:
        check_at_least_one(cache=window)
    for name, value in (("cache_theta", theta), ("cache_lambda", lambda_)):
        if value is not None:
            check_setting(name, value)


def adapted_figures(
    reader: Reader, tokens: TokenArray, options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Figures of a text under a cache, and under dynamic evaluation, where asked for."""
    found: dict[str, dict[str, Any]] = {}
    if window := options.get("cache"):
        wanted = options.get("cache_theta"), options.get("cache_lambda")
        theta, lambda_ = cache_settings(reader, window, *wanted)
        grid = _cache_nll(reader, tokens, window, (theta,), (lambda_,))
        chosen = {"window": window, "theta": theta, "lambda": lambda_}
        chosen |= _chosen_on(options, given=None not in wanted)
        found["cache"] = chosen | reader.figures(grid.at(theta, lambda_).mean)
    if options.get("dynamic"):
        found["dynamic"] = _dynamic(reader, tokens, options)
    return found


def cache_settings(
    reader: Reader, window: int, theta: float | None, lambda_: float | None
) -> tuple[float, float]:
    """The theta and the lambda of a cache: those given, the others chosen on validation text."""
    if theta is not None and lambda_ is not None:
        return theta, lambda_
    source = _validation(reader, "cache_theta` and `cache_lambda")
    thetas = THETAS if theta is None else (theta,)
    lambdas = LAMBDAS if lambda_ is None else (lambda_,)
    grid = _cache_nll(reader, reader.encode(source), window, thetas, lambdas)
    return grid.best


def _cache_nll(reader: Reader, tokens: TokenArray, window: int, *grid: tuple[float, ...]) -> Any:
    read = partial(token_nll, reader.model)
    carry = reader.model.initial_carry(EVALUATION_ROWS)
    batches = partial(reader.batches, tokens, EVALUATION_ROWS)
    return cache_nll(read, reader.params, carry, batches, window, *grid)


def _dynamic(reader: Reader, tokens: TokenArray, options: Mapping[str, Any]) -> dict[str, Any]:
    name = options.get("dynamic_rule", "sgd")
    rule, rate = _rule(reader, name), options.get("dynamic_rate")
    dynamic_nll = make_dynamic_nll(partial(language_model_loss, reader.model))

    def measure(tokens: TokenArray, rate: float) -> Nll:
        carry, batches = reader.model.initial_carry(1), reader.batches(tokens, 1)
        return dynamic_nll(reader.params, carry, batches, rate, rule)

    if rate is None:
        held_out = reader.encode(_validation(reader, "dynamic_rate"))
        few = TokenArray(held_out.read(0, min(TUNED_TOKENS, len(held_out))))
        rate = best_rate(lambda rate: measure(few, rate).mean, RATES[name])
    chosen = {"rule": name, "rate": rate} | _chosen_on(options, given="dynamic_rate" in options)
    return chosen | reader.figures(measure(tokens, rate).mean)


def _chosen_on(options: Mapping[str, Any], *, given: bool) -> dict[str, str]:
    """What a report says of where settings come from."""
    same = ", which is measured here" if options["split"] == "validation" else ""
    return {} if given else {"chosen_on": f"the validation text{same}"}


def best_rate(measure: Callable[[float], float], rates: Iterable[float]) -> float:
    """The rate of the least cost, sought upwards until the cost rises."""
    best, least = 0.0, np.inf
    for rate in rates:
        cost = measure(rate)
        if not cost < least:
            break
        best, least = rate, cost
    if not best:
        raise UserError(
            "dynamic evaluation diverges at every rate that is tried; give a smaller `dynamic_rate`"
        )
    return best


def _rule(reader: Reader, name: str) -> Rule:
    if name == "sgd":
        return descent(reader.params)
    source = reader.part("train")
    assert source is not None
    batches = reader.batches(reader.encode(source), EVALUATION_ROWS)
    loss_fn, carry = (
        partial(language_model_loss, reader.model),
        reader.model.initial_carry(EVALUATION_ROWS),
    )
    return rms_rule(loss_fn, reader.params, carry, batches, decay=DECAY)


def _validation(reader: Reader, names: str) -> Source:
    source = reader.part("validation")
    if source is None:
        raise UserError(
            f"`{names}` are chosen on validation text, and the corpus of this model holds out none;"
            " give them"
        )
    return source
