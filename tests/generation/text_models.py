"""Small models with a tokenizer that the tests of texts share."""

import string

import jax
import jax.numpy as jnp
from generation.toy_models import lstm_carry, lstm_params, lstm_prefill, lstm_step

from jaxgen.config import TokenizerConfig
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.generation.text import TextModel
from jaxgen.models.decoding import initial_carry_of, step_fn_of
from jaxgen.models.language_model import LanguageModel, prefill_fn_of


def initial_carry(params, batch_size, condition):
    return lstm_carry(batch_size)


def make_model(kind="char", text=string.ascii_lowercase + " ", prefill_fn=lstm_prefill):
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind), [text])
    params = lstm_params(jax.random.key(5), tokenizer.vocab_size)
    return TextModel(params, None, tokenizer, lstm_step, prefill_fn, initial_carry)


def make_labelled_model(labels=("joy", "fear", "anger")):
    """A language model of five letters, conditioned on labels and a null label."""
    tokenizer = build_tokenizer(TokenizerConfig(kind="char"), ["abcde"])
    size = tokenizer.vocab_size
    model = LanguageModel(vocab_size=size, hidden_size=8, num_labels=len(labels) + 1)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda x: 3 * x, params)
    params["label_gates"] = 2 * jax.random.normal(jax.random.key(1), params["label_gates"].shape)
    functions = step_fn_of(model), prefill_fn_of(model), initial_carry_of(model)
    return TextModel(params, None, tokenizer, *functions, len(labels) + 1, labels)
