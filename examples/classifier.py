"""Train an LSTM classifier and ask it, without the command line.

    python examples/classifier.py

The pieces are those that `jaxgen train` joins: labelled texts, a tokenizer, batches of similar
length, a Flax module, its loss, and one jitted training step.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen
from jaxgen.config import LabelledData, TokenizerConfig
from jaxgen.data.buckets import BucketedRows, batches_by_length, bucket_lengths
from jaxgen.data.cleaning import make_cleaner
from jaxgen.data.labelled import load_labelled
from jaxgen.data.labels import LabelSet
from jaxgen.data.reading import TextReader
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.evaluation.classification_report import report
from jaxgen.models.classifier import TextClassifier, classifier_loss
from jaxgen.training.optimizers import make_optimizer


def main(epochs=6, hidden_size=32, batch_size=32):
    """Train, print what held-out sentences give, and return their accuracy."""
    # Texts and labels: the embedded sentences, a tenth of each class held out.
    config = LabelledData(lowercase=True, separate_punctuation=True, validation_fraction=0.0)
    corpus, clean = load_labelled(config), make_cleaner(config)
    labels = LabelSet.fit(corpus.train.labels)
    tokenizer = build_tokenizer(TokenizerConfig(kind="word"), map(clean, corpus.train.texts))
    reader = TextReader(tokenizer, clean, max_length=64)

    # Rows of tokens, in batches of at most two padded lengths.
    rows, _ = reader.read(corpus.train.texts)
    targets = labels.encode(corpus.train.labels, corpus.train.name)
    padded_lengths = bucket_lengths(rows.lengths, 2)
    batches = BucketedRows(rows, targets, batch_size, padded_lengths)

    # Model, loss and one training step, compiled once a padded length.
    model = TextClassifier(
        vocab_size=tokenizer.vocab_size,
        num_classes=len(labels),
        embedding_size=32,
        hidden_size=hidden_size,
        bidirectional=True,
        pooling=("mean", "max"),
        dropout=0.3,
    )
    tokens, lengths = jnp.zeros((1, 1), jnp.int32), jnp.ones((1,), jnp.int32)
    params = model.init(jax.random.key(0), tokens, lengths)["params"]
    tx = make_optimizer(name="adam", learning_rate=3e-3, clip_norm=5.0)
    step = jaxgen.make_train_step(partial(classifier_loss, model), tx)
    step = jax.jit(step, donate_argnums=0)
    state = jaxgen.init_state(params, tx, jax.random.key(1), carry=())
    for epoch in range(epochs):
        right = examples = 0.0
        for place in range(batches.batches_per_epoch):
            batch = jax.tree.map(lambda x: x[0], batches.read(epoch, place, 1))
            state, metrics = step(state, batch)
            right += metrics.sums["accuracy"].total
            examples += metrics.sums["accuracy"].weight
        print(f"epoch {epoch + 1}  accuracy {right / examples:.3f} on the training sentences")

    # Held-out sentences, each once.
    apply = jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs))
    held_out, _ = reader.read(corpus.test.texts)
    logits = np.zeros((len(held_out), len(labels)), np.float32)
    for indexes, batch in batches_by_length(held_out, None, batch_size, padded_lengths):
        found = apply(state.params, batch.tokens, batch.lengths)
        logits[indexes] = found[: len(indexes)]
    true = labels.encode(corpus.test.labels, corpus.test.name)
    figures = report(true, logits, labels.names)
    print(f"held out  accuracy {figures['accuracy']:.3f}  macro F1 {figures['f1_macro']:.3f}")
    for text, row in list(zip(corpus.test.texts, logits, strict=True))[:4]:
        print(f"{labels.names[row.argmax()]:9}{text}")
    return figures["accuracy"]


if __name__ == "__main__":
    main()
