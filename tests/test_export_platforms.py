"""The train chunk and the sampler lower for CPU, NVIDIA GPU and TPU on any machine."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export

from jaxgen.generation.generate import generate
from jaxgen.generation.sampling import SamplingParams
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.language_model import LanguageModel, language_model_loss, prefill_fn_of
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.step import init_state, make_train_step, multi_step_of

PLATFORMS = ("cpu", "cuda", "tpu")
B, T = 2, 3

MODELS = {
    "one-hot": LanguageModel(vocab_size=7, hidden_size=4),
    "deep bfloat16": LanguageModel(
        vocab_size=7, hidden_size=4, num_layers=2, embedding_size=4, tied=True, dropout=0.1,
        weight_drop=0.1, num_labels=2, dtype=jnp.bfloat16,
    ),
    "layer-normalised": LanguageModel(vocab_size=7, hidden_size=4, cell="layernorm_lstm"),
}  # fmt: skip


def shapes_of(function, *arguments):
    return jax.eval_shape(function, *arguments)


def params_of(model):
    return shapes_of(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"]


@pytest.mark.parametrize("name", MODELS)
def test_the_train_steps_lower_for_each_platform(name):
    model = MODELS[name]
    tx = make_optimizer(name="adam", learning_rate=1e-3)
    multi_step = multi_step_of(make_train_step(partial(language_model_loss, model), tx))

    def run(params, key_data, batches):
        # A typed key does not cross an export's border; its data does.
        key = jax.random.wrap_key_data(key_data)
        state = init_state(params, tx, key, carry=model.initial_carry(B))
        state, metrics = multi_step(state, batches, 2)
        return state.params, metrics

    key_data = jax.ShapeDtypeStruct((2,), jnp.uint32)
    batches = {"tokens": jax.ShapeDtypeStruct((2, B, T + 1), jnp.int32)}
    exported = export.export(jax.jit(run), platforms=PLATFORMS)(params_of(model), key_data, batches)
    assert exported.platforms == PLATFORMS


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("one-hot", SamplingParams(temperature=0.7, top_k=3, top_p=0.9)),
        ("deep bfloat16", SamplingParams(temperature=1.0)),
        ("layer-normalised", SamplingParams(temperature=0.0)),
    ],
)
def test_the_sampler_lowers_for_each_platform(name, sampling):
    model = MODELS[name]

    def run(params, tokens, key_data):
        out = generate(
            step_fn_of(model),
            params,
            model.initial_carry(B),
            tokens,
            None,
            jax.random.wrap_key_data(key_data),
            sampling,
            max_new_tokens=4,
            prefill_fn=prefill_fn_of(model),
        )
        return out.tokens, out.lengths

    tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
    key_data = jax.ShapeDtypeStruct((2,), jnp.uint32)
    exported = export.export(jax.jit(run), platforms=PLATFORMS)(params_of(model), tokens, key_data)
    assert exported.platforms == PLATFORMS


@pytest.mark.slow
def test_an_exported_sampler_runs_here_as_it_was():
    model = MODELS["one-hot"]
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]

    def run(params, tokens):
        return generate(
            step_fn_of(model), params, model.initial_carry(B), tokens, None, 0, max_new_tokens=4
        ).tokens

    tokens = jnp.asarray([[1, 2], [3, 4]], jnp.int32)
    exported = export.export(jax.jit(run), platforms=PLATFORMS)(params, tokens)
    assert (exported.call(params, tokens) == run(params, tokens)).all()
