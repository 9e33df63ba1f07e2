"""Session handles hold a state bit by bit, of any kind, and fit the model that made them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("fastapi")
from generation.text_models import make_labelled_model, make_model

from jaxgen.generation.carry import PromptState
from jaxgen.serving.handles import model_fingerprint, sign, verify
from jaxgen.serving.problems import Problem

KEY = b"0123456789abcdef"


def carry_of(model: Any, size: int = 1) -> Any:
    """A carry as the model's, with other numbers."""
    condition = jnp.zeros(size, jnp.int32) if model.num_labels else None
    carry = model.initial_carry(model.params, size, condition)
    return jax.tree.map(lambda x: x + np.asarray(0.3, x.dtype) if x.dtype.kind == "f" else x, carry)


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("make", [make_model, make_labelled_model])
def test_a_handle_gives_its_state_back(make: Any) -> None:
    model = make()
    state = PromptState(carry_of(model), jnp.array([3], jnp.int32))
    name = model_fingerprint(model)
    handle = sign(state, name, KEY)
    assert handle.isascii()
    assert not set(handle) & set("+/ \n")  # good in a URL
    assert_same(verify(handle, model, name, KEY), state)


@pytest.mark.slow
def test_a_state_under_guidance_too() -> None:
    model = make_labelled_model()
    name = model_fingerprint(model)
    for label in ("joy", "joy=0.7,fear=0.3"):
        state = model.prefill("abc", label=label, guidance=2.0)
        found = verify(sign(state, name, KEY), model, name, KEY)
        assert_same(found, state)
        wanted = model.generate("d", after=state, max_new_tokens=8, key=1)
        assert model.generate("d", after=found, max_new_tokens=8, key=1) == wanted


def test_half_precision_is_kept() -> None:
    model = make_model()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), carry_of(model))
    state = PromptState(half, jnp.array([3], jnp.int32))
    assert_same(verify(sign(state, "m", KEY), model, "m", KEY), state)


def test_fingerprints_tell_models_apart() -> None:
    model, other = make_model(), make_model()
    assert model_fingerprint(model) == model_fingerprint(other)
    other.params["output"] = other.params["output"].at[0, 0].add(1e-6)
    assert model_fingerprint(model) != model_fingerprint(other)
    assert model_fingerprint(make_model(text="abc")) != model_fingerprint(make_model(text="abd"))


def test_any_other_bit_is_refused() -> None:
    model = make_model()
    handle = sign(PromptState(carry_of(model), jnp.array([3], jnp.int32)), "m", KEY)
    with pytest.raises(Problem, match="its session key"):
        verify(handle, model, "m", KEY[::-1])
    with pytest.raises(Problem, match="of another model"):
        verify(handle, model, "n", KEY)
    for place in range(0, len(handle), 37):
        other = chr(ord(handle[place]) ^ 1)
        with pytest.raises(Problem, match="`session` must be"):
            verify(handle[:place] + other + handle[place + 1 :], model, "m", KEY)
