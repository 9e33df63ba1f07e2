"""Small models with a tokenizer that the tests of texts share."""

import string

import jax
from generation.toy_models import lstm_carry, lstm_params, lstm_prefill, lstm_step

from jaxgen.config import TokenizerConfig
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.generation.text import TextModel


def initial_carry(params, batch_size, condition):
    return lstm_carry(batch_size)


def make_model(kind="char", text=string.ascii_lowercase + " ", prefill_fn=lstm_prefill):
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind), [text])
    params = lstm_params(jax.random.key(5), tokenizer.vocab_size)
    return TextModel(params, None, tokenizer, lstm_step, prefill_fn, initial_carry)
