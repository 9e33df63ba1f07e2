"""Train a recurrent model of your own, a GRU in plain JAX, and write text with it.

    python examples/bring_your_own_model.py

jaxgen knows a model by two functions alone:

    loss_fn(params, carry, batch, key) -> (loss, jaxgen.LossAux)   to `make_train_step`
    step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])     to `generate` and `beam_search`
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen
from jaxgen.data.embedded import embedded_text


def init(key, vocab_size, hidden_size):
    """Parameters; the input projection of a token is a row of `inputs`."""
    keys = jax.random.split(key, 3)
    gates = 3 * hidden_size
    draw = jax.nn.initializers.glorot_uniform()
    return {
        "inputs": draw(keys[0], (vocab_size, gates)),
        "recurrent": draw(keys[1], (hidden_size, gates)),
        "output": draw(keys[2], (hidden_size, vocab_size)),
        "bias": jnp.zeros(vocab_size),
    }


def step_fn(params, carry, tokens):
    """Read one token a row: the new carry [B, H], and the logits [B, V] of the next token."""
    x_r, x_z, x_n = jnp.split(params["inputs"][tokens], 3, axis=-1)
    h_r, h_z, h_n = jnp.split(carry @ params["recurrent"], 3, axis=-1)
    update = jax.nn.sigmoid(x_z + h_z)
    new = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n)
    carry = update * carry + (1 - update) * new
    return carry, carry @ params["output"] + params["bias"]


def loss_fn(params, carry, batch, key):
    """Mean nats per token of one window of text; `key` is there for dropout."""
    del key
    tokens = batch["tokens"].T  # [T+1, B]
    carry, logits = jax.lax.scan(partial(step_fn, params), carry, tokens[:-1])
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[1:, :, None], axis=-1)
    count = jnp.float32(log_p.size)
    return -log_p.mean(), jaxgen.LossAux(carry, {"nll": jaxgen.Sum(-log_p.sum(), count)}, count)


def main(steps=400, hidden_size=192, batch_size=32, window=32, max_new_tokens=200):
    """Train, then print a sample and the likeliest continuation, and return both."""
    text = embedded_text().text
    characters = sorted(set(text))
    ids = {character: index for index, character in enumerate(characters)}

    def decode(tokens):
        return "".join(characters[token] for token in np.asarray(tokens).tolist())

    # Each row reads its own part of the text, window after window, and carries its state along.
    tokens = np.asarray([ids[character] for character in text], np.int32)
    rows = tokens[: len(tokens) // batch_size * batch_size].reshape(batch_size, -1)
    windows = (rows.shape[1] - 1) // window

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(4e-3))
    train_step = jax.jit(jaxgen.make_train_step(loss_fn, tx), donate_argnums=0)
    params = init(jax.random.key(0), len(characters), hidden_size)
    fresh = np.zeros((batch_size, hidden_size), np.float32)
    state = jaxgen.init_state(params, tx, jax.random.key(1), carry=jnp.asarray(fresh))
    for step in range(steps):
        first = step % windows * window
        if first == 0:
            state = state._replace(carry=jnp.asarray(fresh))
        state, metrics = train_step(state, {"tokens": rows[:, first : first + window + 1]})
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: {float(metrics.loss):.3f} nats per character")

    prompt, carry = "The ", jnp.zeros((1, hidden_size))
    start = jnp.asarray([[ids[character] for character in prompt]])
    settings = jaxgen.SamplingParams(temperature=0.6)
    sampled = jaxgen.generate(
        step_fn, state.params, carry, start, None, 0, settings, max_new_tokens=max_new_tokens
    )
    beams = jaxgen.beam_search(
        step_fn, state.params, carry, start, num_beams=4, max_new_tokens=max_new_tokens // 4
    )
    texts = [prompt + decode(sampled.tokens[0]), prompt + decode(beams.tokens[0, 0])]
    logprob = float(beams.logprobs[0, 0])
    print(f"\nsampled:\n{texts[0]}\n\nbeam search ({logprob:.1f} nats):\n{texts[1]}")
    return texts


if __name__ == "__main__":
    main()
