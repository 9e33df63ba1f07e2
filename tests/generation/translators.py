"""Tiny translators with random parameters and tokenizers of letters or words."""

from functools import cache, partial

import jax
import jax.numpy as jnp

from jaxgen.config import TokenizerConfig
from jaxgen.data.tokenizers import BOS, EOS, PAD
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.generation.translator import Translator
from jaxgen.models.seq2seq import Seq2Seq
from jaxgen.models.seq2seq_decoding import (
    attention_of,
    initial_carry_of,
    prefill_fn_of,
    step_fn_of,
)


def tokenizer_of(text, kind="char"):
    return build_tokenizer(TokenizerConfig(kind=kind), [text], specials=(PAD, BOS, EOS))


@cache
def make_translator(attention="general", seed=0, kind="char", hidden_size=8):
    """Letters (or words) a to f into u to z."""
    source, target = tokenizer_of("a b c d e f", kind), tokenizer_of("u v w x y z", kind)
    model = Seq2Seq(source.vocab_size, target.vocab_size, hidden_size, attention=attention)
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(seed), tokens, jnp.ones((1,), jnp.int32), tokens)
    # Sharp enough to tell texts apart, with an end that comes after some tokens.
    params = jax.tree.map(lambda x: 3 * x, params["params"])
    params["output_bias"] = params["output_bias"].at[target.eos_id].set(1.0)
    return Translator(
        params,
        None,
        source,
        target,
        step_fn_of(model),
        prefill_fn_of(model),
        initial_carry_of(model),
        max_source_length=40,
        attention_fn=None if attention == "none" else partial(attention_of, model),
    )
