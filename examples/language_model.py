"""Train an LSTM language model on characters and write with it, without the command line.

    python examples/language_model.py

The pieces are those that `jaxgen train` joins: a tokenizer, a stream of windows, a Flax module, its
loss, one jitted function that makes many optimizer steps, and `generate`.
"""

from functools import partial

import jax
import jax.numpy as jnp

import jaxgen
from jaxgen.config import TokenizerConfig
from jaxgen.data.corpora import Corpus
from jaxgen.data.embedded import embedded_text
from jaxgen.data.streams import TokenStream, evaluation_batches
from jaxgen.data.tokens import encode_corpus
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.evaluation.perplexity import bits
from jaxgen.evaluation.sums import make_sums
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.language_model import LanguageModel, language_model_loss, prefill_fn_of
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.step import multi_step_of


def main(steps=300, hidden_size=128, batch_size=32, length=64, max_new_tokens=120):
    """Train, print the held-out loss and three samples, and return the loss and the samples."""
    # Corpus: nine tenths to train on, the rest held out; then token ids.
    train, held_out = embedded_text().cut([0.9, 0.1])
    tokenizer = build_tokenizer(TokenizerConfig(kind="char"), train)
    tokens = encode_corpus(Corpus(train, held_out), tokenizer)
    stream = TokenStream(tokens.train, batch_size, length)

    # Model, loss and optimizer. The loss is a pure function of parameters, carry and batch.
    model = LanguageModel(tokenizer.vocab_size, hidden_size)
    loss_fn = partial(language_model_loss, model)
    tx = make_optimizer(name="adam", learning_rate=8e-3, clip_norm=1.0)

    # One compiled call makes `per_call` steps; the state is donated, so nothing is copied.
    per_call = min(50, steps, stream.batches_per_epoch)
    multi_step = jax.jit(multi_step_of(jaxgen.make_train_step(loss_fn, tx)), donate_argnums=0)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    carry = model.initial_carry(batch_size)
    state = jaxgen.init_state(params, tx, jax.random.key(1), carry=jax.tree.map(jnp.copy, carry))
    for call in range(steps // per_call):
        epoch, place = divmod(call, stream.batches_per_epoch // per_call)
        if place == 0:  # each pass over the text starts from a carry of zeros
            state = state._replace(carry=jax.tree.map(jnp.copy, carry))
        batches = stream.read(epoch, place * per_call, per_call)
        state, metrics = multi_step(state, batches, per_call)
        loss = float(metrics.loss[-1])
        print(f"step {int(state.step):4d}  {loss:.3f} nats per character")

    # Every held-out character is counted once.
    batches = evaluation_batches(tokens.validation, 16, length)
    sums = make_sums(loss_fn)(state.params, model.initial_carry(16), batches)
    held_out_nll = float(sums["nll"].total / sums["nll"].weight)
    print(f"held out   {held_out_nll:.3f} nats, {bits(held_out_nll):.3f} bits per character")

    # Three temperatures are three rows of one batch, hence one program.
    temperatures = [0.2, 0.5, 1.0]
    prompt = jnp.asarray([tokenizer.encode("The ")] * len(temperatures))
    out = jaxgen.generate(
        step_fn_of(model),
        state.params,
        model.initial_carry(len(temperatures)),
        prompt,
        None,
        jax.random.key(2),
        jaxgen.SamplingParams(temperature=temperatures),
        max_new_tokens=max_new_tokens,
        prefill_fn=prefill_fn_of(model),
    )
    samples = ["The " + tokenizer.decode(ids) for ids in out.tokens.tolist()]
    for temperature, sample in zip(temperatures, samples, strict=True):
        print(f"\ntemperature {temperature}: {sample}")
    return held_out_nll, samples


if __name__ == "__main__":
    main()
