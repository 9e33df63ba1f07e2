"""Penalties, bans and filters against the logits processors of `transformers`."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.generation.draw import filter_logits
from jaxgen.generation.penalties import (
    PenaltyState,
    init_penalty_state,
    make_bans,
    penalise,
    update_with_prompt,
)
from jaxgen.generation.sampling import SamplingParams

pytestmark = pytest.mark.peers("torch", "transformers")

V, B, T = 23, 6, 12


@pytest.fixture(scope="module")
def peers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers
    return torch, transformers


# What is asked of jaxgen, and the processors that `transformers.generate` would build for it.
CASES = [
    ({"repetition_penalty": 1.7}, [("RepetitionPenaltyLogitsProcessor", 1.7)]),
    ({"no_repeat_ngram": 1}, [("NoRepeatNGramLogitsProcessor", 1)]),
    ({"no_repeat_ngram": 2}, [("NoRepeatNGramLogitsProcessor", 2)]),
    ({"no_repeat_ngram": 3}, [("NoRepeatNGramLogitsProcessor", 3)]),
    (
        {"min_new_tokens": 5, "stop_tokens": [3, 7]},
        [("MinNewTokensLengthLogitsProcessor", T, 5, [3, 7])],
    ),
    ({"banned_tokens": [1, 4, 9]}, [("SuppressTokensLogitsProcessor", [1, 4, 9])]),
    ({"temperature": 0.4}, [("TemperatureLogitsWarper", 0.4)]),
    ({"top_k": 5}, [("TopKLogitsWarper", 5)]),
    ({"top_p": 0.6}, [("TopPLogitsWarper", 0.6)]),
    ({"min_p": 0.15}, [("MinPLogitsWarper", 0.15)]),
    ({"typical_p": 0.5}, [("TypicalLogitsWarper", 0.5)]),
    (
        {
            "repetition_penalty": 1.3,
            "no_repeat_ngram": 2,
            "banned_tokens": [2],
            "temperature": 1.4,
            "top_k": 15,
            "top_p": 0.9,
            "min_p": 0.05,
            "typical_p": 0.8,
        },
        [
            ("RepetitionPenaltyLogitsProcessor", 1.3),
            ("NoRepeatNGramLogitsProcessor", 2),
            ("SuppressTokensLogitsProcessor", [2]),
            ("TemperatureLogitsWarper", 1.4),
            ("TopKLogitsWarper", 15),
            ("TopPLogitsWarper", 0.9),
            ("MinPLogitsWarper", 0.05),
            ("TypicalLogitsWarper", 0.8),
        ],
    ),
]


@pytest.mark.parametrize(("options", "chain"), CASES, ids=[str(options) for options, _ in CASES])
def test_equals_transformers(peers, options, chain):
    torch, transformers = peers
    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=(B, V))).astype(np.float32)
    said = rng.integers(0, 6, (B, T))
    wanted = torch.tensor(logits)
    for name, *arguments in chain:
        keywords = {"device": "cpu"} if name.startswith(("MinNew", "Suppress")) else {}
        process = getattr(transformers, name)(*arguments, **keywords)
        wanted = process(torch.tensor(said), wanted)

    @jax.jit
    def process(logits, sampling):
        sampling = sampling.rows(B)
        state = init_penalty_state(sampling, V, T + 3, B)
        state = update_with_prompt(state, jnp.asarray(said, jnp.int32), jnp.ones((B, T), bool))
        assert isinstance(state, PenaltyState)
        bans = make_bans(sampling, V)
        length = jnp.zeros(B, jnp.int32)
        logits = jax.vmap(penalise)(logits, sampling, state, bans, length)
        return filter_logits(logits, sampling)

    got = process(logits, SamplingParams(**options))
    np.testing.assert_allclose(
        jax.nn.softmax(got), torch.softmax(wanted, -1).numpy(), rtol=1e-4, atol=1e-7
    )
