"""Train an LSTM encoder-decoder to read dates, and let it write them, without the command line.

    python examples/seq2seq.py

The pieces are those that `jaxgen train` joins: pairs of texts, batches of similar length, one
jitted training step; and the one `jaxgen.generate`, whose carry is what the encoder read.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen
from jaxgen.config import PairData, TokenizerConfig
from jaxgen.data.pair_buckets import PairBatches, encoded_pairs, pair_shapes
from jaxgen.data.pairs import load_pairs
from jaxgen.data.ragged import Ragged
from jaxgen.data.tokenizers import BOS, EOS, PAD
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.models.seq2seq import Seq2Seq, seq2seq_loss
from jaxgen.models.seq2seq_decoding import initial_carry_of, step_fn_of
from jaxgen.training.optimizers import make_optimizer


def main(examples=8000, epochs=4, hidden_size=96, batch_tokens=4096, shown=5):
    """Train, print held-out dates with what is made of them, and return the share that is right."""
    # `3rd of March 2003` and `2003-03-03`, in characters; targets between <bos> and <eos>.
    config = PairData(embedded="dates", examples=examples, validation_fraction=0.0)
    corpus = load_pairs(config)
    kind = TokenizerConfig(kind="char")
    source = build_tokenizer(kind, corpus.train.sources, specials=(PAD,))
    target = build_tokenizer(kind, corpus.train.targets, specials=(PAD, BOS, EOS))
    sources, targets = (
        Ragged.from_rows(tokenizer.encode_many(texts)[0])
        for tokenizer, texts in ((source, corpus.train.sources), (target, corpus.train.targets))
    )
    ends = {"bos": target.bos_id, "eos": target.eos_id}
    rows = encoded_pairs(sources, targets, config, **ends, name="dates")
    batches = PairBatches(rows, batch_tokens, pair_shapes(rows, 3))

    # Model, loss and one training step, compiled once a shape of batch.
    model = Seq2Seq(
        source_vocab_size=source.vocab_size,
        target_vocab_size=target.vocab_size,
        embedding_size=32,
        hidden_size=hidden_size,
        attention="general",
    )
    tokens, lengths = jnp.zeros((1, 2), jnp.int32), jnp.ones((1,), jnp.int32)
    params = model.init(jax.random.key(0), tokens, lengths, tokens)["params"]
    tx = make_optimizer(name="adam", learning_rate=4e-3, clip_norm=1.0)
    step = jax.jit(jaxgen.make_train_step(partial(seq2seq_loss, model), tx), donate_argnums=0)
    state = jaxgen.init_state(params, tx, jax.random.key(1), carry=())
    for epoch in range(epochs):
        right = tokens_seen = 0.0
        for place in range(batches.batches_per_epoch):
            batch = jax.tree.map(lambda x: jnp.asarray(x[0]), batches.read(epoch, place, 1))
            state, metrics = step(state, batch)
            right += metrics.sums["token_accuracy"].total
            tokens_seen += metrics.sums["token_accuracy"].weight
        print(f"epoch {epoch + 1}  {right / tokens_seen:.3f} of the characters foretold rightly")

    # Held-out dates, all in one call: the likeliest character at each step, until <eos>.
    encoded = Ragged.from_rows(source.encode_many(corpus.test.sources)[0])
    padded = encoded.padded(np.arange(len(encoded)), int(encoded.lengths.max()))
    carry = initial_carry_of(model)(state.params, len(encoded), padded)
    output = jaxgen.generate(
        step_fn_of(model),
        state.params,
        carry,
        jnp.full((len(encoded), 1), target.bos_id),
        None,
        0,
        jaxgen.SamplingParams(temperature=0.0, stop_tokens=[target.eos_id]),
        max_new_tokens=12,
    )
    written = [
        target.decode(np.asarray(row)[: int(length)]).strip()
        for row, length in zip(output.tokens, output.lengths, strict=True)
    ]
    for text, date in list(zip(corpus.test.sources, written, strict=True))[:shown]:
        print(f"{text:32}{date}")
    exact = np.mean([a == b for a, b in zip(written, corpus.test.targets, strict=True)])
    print(f"{exact:.3f} of {len(written)} held-out dates are right")
    return float(exact)


if __name__ == "__main__":
    main()
