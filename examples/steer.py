"""Train a language model that follows a label, and turn the label up, without the command line.

    python examples/steer.py

The pieces are those that `jaxgen train` joins: labelled texts, batches of similar length in which
some labels are dropped, one jitted training step; and `guided`, a step function over the model's.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen
from jaxgen.config import LabelledSource, TokenizerConfig
from jaxgen.data.buckets import BucketedRows, LabelDropout, bucket_lengths
from jaxgen.data.labelled import load_labelled
from jaxgen.data.labels import LabelSet
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.models.conditional import conditional_loss
from jaxgen.models.decoding import initial_carry_of, step_fn_of
from jaxgen.models.language_model import LanguageModel
from jaxgen.tasks.conditional import encode
from jaxgen.training.optimizers import make_optimizer


def main(epochs=8, hidden_size=64, batch_size=32):
    """Train, write sentences of each label at three strengths, and return them."""
    # Sentences between two <eos>, and their labels; the null label is one past the others.
    corpus = load_labelled(LabelledSource(validation_fraction=0.0, test_fraction=0.0)).train
    labels = LabelSet.fit(corpus.labels)
    null = len(labels)
    tokenizer = build_tokenizer(TokenizerConfig(kind="word"), corpus.texts, specials=("<pad>",))
    rows = encode(tokenizer, 64, corpus.texts)
    batches = BucketedRows(
        rows,
        labels.encode(corpus.labels, corpus.name),
        batch_size,
        bucket_lengths(rows.lengths, 2),
        label_dropout=LabelDropout(0.1, null),
    )

    # Model, loss and one training step, compiled once a padded length.
    model = LanguageModel(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden_size,
        embedding_size=64,
        num_labels=len(labels) + 1,
    )
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    tx = make_optimizer(name="adam", learning_rate=5e-3, clip_norm=1.0)
    step = jax.jit(jaxgen.make_train_step(partial(conditional_loss, model), tx), donate_argnums=0)
    state = jaxgen.init_state(params, tx, jax.random.key(1), carry=())
    for epoch in range(epochs):
        nll = tokens = 0.0
        for place in range(batches.batches_per_epoch):
            batch = jax.tree.map(lambda x: jnp.asarray(x[0]), batches.read(epoch, place, 1))
            state, metrics = step(state, batch)
            nll += metrics.sums["nll"].total
            tokens += metrics.sums["nll"].weight
        print(f"epoch {epoch + 1}  {nll / tokens:.3f} nats a token")

    # Each label at three strengths, all in one call: labels and strengths are traced values.
    strengths = [0.0, 1.0, 3.0]
    wanted = jnp.repeat(jnp.arange(len(labels)), len(strengths))
    carry = jaxgen.guided_carry(
        initial_carry_of(model), state.params, wanted, null, jnp.tile(jnp.array(strengths), null)
    )
    sampling = jaxgen.SamplingParams(temperature=0.7, stop_tokens=[tokenizer.eos_id])
    prompts = jnp.full((len(wanted), 1), tokenizer.eos_id)
    output = jaxgen.generate(
        jaxgen.guided(step_fn_of(model)), state.params, carry, prompts, None, 0, sampling,
        max_new_tokens=30,
    )  # fmt: skip
    texts = [
        tokenizer.decode(np.asarray(tokens)[: int(length)]).strip()
        for tokens, length in zip(output.tokens, output.lengths, strict=True)
    ]
    for place, text in enumerate(texts):
        name, strength = labels.names[int(wanted[place])], strengths[place % len(strengths)]
        print(f"{name:9} guidance {strength:g}  {text}")
    return dict(zip(labels.names, np.reshape(texts, (len(labels), -1)).tolist(), strict=True))


if __name__ == "__main__":
    main()
