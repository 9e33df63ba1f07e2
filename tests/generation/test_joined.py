"""Several text models as one, against the probabilities of each."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from generation.text_models import make_model
from generation.toy_models import lstm_carry, lstm_params, lstm_step

from jaxgen.errors import UserError
from jaxgen.generation import programs
from jaxgen.generation.joined import JoinedParams, ensemble_model

pytestmark = pytest.mark.slow

FIRST = make_model("char", "abc ")
SIZE = FIRST.tokenizer.vocab_size
MODELS = [replace(FIRST, params=lstm_params(jax.random.key(seed), SIZE)) for seed in range(3)]
TEXT, PROMPT = "cab a", "ab"


def other_step(params, carry, tokens):
    return lstm_step(params, carry, tokens)


def wider_carry(params, batch_size, condition):
    return lstm_carry(batch_size, 5)


WIDER = replace(FIRST, params=lstm_params(jax.random.key(7), SIZE, 5), initial_carry=wider_carry)


@pytest.mark.parametrize(
    ("models", "weights"),
    [
        (MODELS, None),
        (MODELS, [3.0, 0.0, 1.0]),
        ([MODELS[0], WIDER], [1.0, 2.0]),
        ([MODELS[0], replace(MODELS[1], step_fn=other_step, prefill_fn=None)], None),
    ],
    ids=["seeds", "weights", "other shapes", "another function"],
)
def test_an_average_is_the_mean_of_the_probabilities_token_by_token(models, weights):
    joined = ensemble_model(models, weights)
    each = [np.exp(model.score(TEXT, prompt=PROMPT)) for model in models]
    wanted = np.log(np.average(each, axis=0, weights=weights))
    np.testing.assert_allclose(joined.score(TEXT, prompt=PROMPT), wanted, rtol=0, atol=1e-5)
    (sample,) = joined.sample(PROMPT, n=1, max_new_tokens=6, key=1)
    found = joined.score(sample.text, prompt=PROMPT)
    np.testing.assert_allclose(sample.logprobs, found, rtol=0, atol=1e-5)


def test_a_product_steers_away_from_a_model_of_negative_weight():
    weights = np.array([1.0, 2.0, -2.0])
    joined = ensemble_model(MODELS, weights, "product")
    letters = list("abc ")
    rows = np.array([[m.score(x, prompt=PROMPT)[0] for x in letters] for m in MODELS])
    logits = (weights[:, None] * rows).sum(0)
    found = np.array([joined.score(letter, prompt=PROMPT)[0] for letter in letters])
    # Up to one constant: there is an <unk> beside these letters.
    np.testing.assert_allclose(found - found[0], logits - logits[0], rtol=0, atol=1e-4)
    best = joined.generate(PROMPT, temperature=0.0, max_new_tokens=1)
    assert best == letters[int(np.argmax(logits))]


def test_seeds_are_stacked_and_other_weights_compile_nothing():
    first = ensemble_model(MODELS)
    assert isinstance(first.params, JoinedParams)
    shapes = {x.shape[0] for x in jax.tree.leaves(first.params.members)}
    assert shapes == {len(MODELS)}
    first.generate(PROMPT, max_new_tokens=4)
    compiled = programs.prefill_and_decode._cache_size()
    texts = ensemble_model(MODELS, [5, 1, 1]).generate(PROMPT, max_new_tokens=4, n=1)
    assert len(texts) == 1
    assert programs.prefill_and_decode._cache_size() == compiled


def test_models_that_do_not_fit_together_are_refused():
    with pytest.raises(UserError, match=r"one vocabulary, got the tokenizers .*5.* and .*2"):
        ensemble_model([FIRST, make_model("char", "a")])
    with pytest.raises(UserError, match=r"one vocabulary, got .*, whose tokens differ"):
        ensemble_model([FIRST, make_model("char", "abd ")])
    with pytest.raises(UserError, match="the same labels, got 0 labels and 3 labels"):
        ensemble_model([FIRST, replace(MODELS[1], num_labels=3)])
    with pytest.raises(UserError, match="at least one model"):
        ensemble_model([])


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0, -1.0, 1.0], "`weights` of an average must be 0 or more, got -1"),
        ([0.0, 0.0, 0.0], "`weights` must not all be 0"),
        ([1.0, 2.0], "`weights` must hold one number for each of the 3 models"),
    ],
)
def test_bad_weights_are_refused(weights, said):
    with pytest.raises(UserError, match=said):
        ensemble_model(MODELS, weights)
