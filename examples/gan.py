"""Train a text GAN on made-up sentences, without the command line.

    python examples/gan.py

The pieces are those that `jaxgen train` joins: rows of one length, a generator and a discriminator,
a phase for each kind of step, and one jitted step that does the phase which its batch names.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import TextGanData, TokenizerConfig
from jaxgen.data.buckets import BucketedRows
from jaxgen.data.short_texts import encode_texts, load_texts
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.evaluation.bleu import bleu, self_bleu
from jaxgen.models.gan_estimators import TextGan
from jaxgen.models.gan_steps import dense_loss, discriminator_step_loss, mle_loss, next_extra
from jaxgen.models.text_discriminator import LSTMDiscriminator
from jaxgen.models.text_gan import TextGenerator, real_texts
from jaxgen.training.adversarial_step import Phase, init_adversarial_state, make_adversarial_step
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.phases import PhasedBatches, PhaseOrder

MLE, DISCRIMINATOR, GENERATOR = range(3)


def main(epochs=12, adversarial_steps=200, size=64, batch_size=64):
    """Train, write sentences, and return them with how they compare with held-out ones."""
    # Sentences between two <eos>, padded to one length.
    data = TextGanData(lowercase=True)
    corpus = load_texts(data)
    tokenizer = build_tokenizer(
        TokenizerConfig(kind="word"), corpus.train.texts, lowercase=True, specials=("<eos>",)
    )
    rows = encode_texts(tokenizer, corpus.train, data).rows
    source = BucketedRows(rows, None, batch_size, [data.max_length + 2])

    # The two models.
    vocab_size, end = tokenizer.vocab_size, tokenizer.eos_id
    gan = TextGan(
        TextGenerator(vocab_size, hidden_size=size, embedding_size=size),
        LSTMDiscriminator(vocab_size, embedding_size=size, hidden_size=size),
        start_id=end,
        end_id=end,
    )
    one = jnp.ones((1, 1), jnp.int32)
    generator, discriminator = jax.random.split(jax.random.key(0))
    params = {
        "generator": gan.generator.init(generator, one)["params"],
        "discriminator": gan.discriminator.init(discriminator, one, one[0])["params"],
    }

    # Maximum likelihood; then the discriminator and the generator in turns.
    adam = partial(make_optimizer, name="adam", clip_norm=1.0)
    phases = [
        Phase("generator", partial(mle_loss, gan), adam(learning_rate=5e-3), "mle"),
        Phase(
            "discriminator",
            partial(discriminator_step_loss, gan),
            adam(learning_rate=1e-3, b1=0.5),
            "discriminator",
        ),
        Phase(
            "generator",
            partial(dense_loss, gan, discount=0.7),
            adam(learning_rate=5e-4, b1=0.5),
            "generator",
            next_extra=partial(next_extra, decay=0.9),
        ),
    ]
    first = (MLE, epochs * source.batches_per_epoch)
    batches = PhasedBatches(source, PhaseOrder((first,), (DISCRIMINATOR, GENERATOR)))
    step = jax.jit(make_adversarial_step(phases), donate_argnums=0)
    extra = {"baseline": jnp.float32(0)}
    state = init_adversarial_state(params, phases, jax.random.key(1), extra)
    for number in range(steps := first[1] + 2 * adversarial_steps):
        batch = batches.read(*divmod(number, batches.batches_per_epoch), 1)
        state, metrics = step(state, jax.tree.map(lambda x: jnp.asarray(x[0]), batch))
        if number % 100 == 0 or number >= steps - 2:
            shown = {name: s for name, s in metrics.sums.items() if s.weight > 0}
            print(number, *[f"{name} {s.total / s.weight:.3f}" for name, s in shown.items()])

    # Samples beside held-out sentences.
    like = real_texts(jax.tree.map(lambda x: jnp.asarray(x[0]), source.read(0, 0, 1)))
    texts, _ = gan.sample(state.params, like, jax.random.key(2))
    pairs = zip(np.asarray(texts.tokens).tolist(), texts.lengths.tolist(), strict=True)
    written = [tokenizer.decode(row[:length]).strip() for row, length in pairs]
    samples, real = ([text.split() for text in part] for part in (written, corpus.test.texts))
    print(*written[:5], sep="\n")
    print(f"BLEU-3 {bleu(samples, real, 3):.3f}  Self-BLEU-3 {self_bleu(samples, 3):.3f}")
    return written, bleu(samples, real, 3)


if __name__ == "__main__":
    main()
