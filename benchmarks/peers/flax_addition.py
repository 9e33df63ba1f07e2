"""The Flax example "seq2seq": an encoder-decoder that learns to add on sums made as it goes.

One-hot characters; an encoder LSTM of 512 units whose last carry begins a decoder LSTM as large,
and a dense layer; teacher forcing, Adam at 0.003, 128 new sums a batch, cross-entropy over the
tokens up to the end mark. Source: github.com/google/flax, examples/seq2seq. Differences: numbers
are drawn as the held-out sums are (the example's first number has two digits at most), no held-out
sum is trained on, and nothing is sampled while training. Answers are the model's own, the likeliest
token at each step.
"""

import random
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

CHARACTERS = "0123456789+="
EOS, FIRST = 1, 2
VOCABULARY = FIRST + len(CHARACTERS)
INDEX = {character: FIRST + number for number, character in enumerate(CHARACTERS)}


class Seq2Seq(nn.Module):
    """The example's model, without attention."""

    units: int

    def setup(self) -> None:
        self.encoder = nn.RNN(nn.LSTMCell(self.units), return_carry=True)
        self.decoder = nn.RNN(nn.LSTMCell(self.units), return_carry=True)
        self.head = nn.Dense(VOCABULARY)

    def __call__(self, sources: jax.Array, lengths: jax.Array, inputs: jax.Array) -> jax.Array:
        """Tokens [B, S], their lengths [B] and [B, T] to the logits [B, T, V] of what follows."""
        return self.step(self.encode(sources, lengths), inputs)[1]

    def encode(self, sources: jax.Array, lengths: jax.Array) -> Any:
        """The carry after each source."""
        return self.encoder(jax.nn.one_hot(sources, VOCABULARY), seq_lengths=lengths)[0]

    def step(self, carry: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
        """Decoder inputs [B, T] to the carry after them and the logits [B, T, V]."""
        carry, hidden = self.decoder(jax.nn.one_hot(inputs, VOCABULARY), initial_carry=carry)
        return carry, self.head(hidden)


class FlaxAddition:
    """The contestant.

    Args:
        digits: of each number, at most.
        held_out: sources that are not trained on.
        seed: of the parameters and of the sums.
        steps: between evaluations. batch_size: sums of a step. units: of each LSTM.
    """

    def __init__(
        self,
        digits: int,
        held_out: list[str],
        seed: int = 0,
        steps: int = 200,
        batch_size: int = 128,
        units: int = 512,
    ):
        self.digits, self.steps, self.batch_size = digits, steps, batch_size
        self.held_out = {frozenset(source.split("+")) for source in held_out}
        self.random = random.Random(seed)
        self.model, self.tx = Seq2Seq(units), optax.adam(0.003)
        self.key = jax.random.key(seed)
        self.train_step = jax.jit(self._train_step, donate_argnums=(0, 1))
        self.decode = jax.jit(self._decode)
        self.state: Any = None
        self.seconds, self.done = 0.0, 0

    def advance(self) -> dict[str, float]:
        """Train to the next evaluation; compiling and making the sums are in the seconds."""
        started = time.perf_counter()
        if self.state is None:
            self.state = self._first_state()
        for _ in range(self.steps):
            self.state = self.train_step(*self.state, *self.batch())
        jax.block_until_ready(self.state)
        self.seconds += time.perf_counter() - started
        self.done += self.steps
        return {"seconds": self.seconds, "steps": self.done}

    def answers(self, sources: list[str]) -> list[str]:
        """What the model writes after each source, up to its end mark."""
        tokens = np.asarray(self.decode(self.state[0], *self.encoded(sources)))
        texts = []
        for row in tokens.tolist():
            end = row.index(EOS) if EOS in row else len(row)
            texts.append("".join(CHARACTERS[t - FIRST] if t >= FIRST else "_" for t in row[:end]))
        return texts

    def batch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """New sums: source tokens [B, S], their lengths [B], and target tokens [B, T + 1]."""
        sources: list[str] = []
        targets = np.zeros((self.batch_size, self.digits + 3), np.int32)
        while len(sources) < self.batch_size:
            a, b = self._number(), self._number()
            if frozenset((str(a), str(b))) in self.held_out:
                continue
            answer = [INDEX[character] for character in f"={a + b}"]
            targets[len(sources), : len(answer) + 1] = [*answer, EOS]
            sources.append(f"{a}+{b}")
        return *self.encoded(sources), targets

    def encoded(self, sources: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [B, S], each source with an end mark, and their lengths [B] without it."""
        tokens = np.zeros((len(sources), 2 * self.digits + 2), np.int32)
        for row, source in zip(tokens, sources, strict=True):
            row[: len(source) + 1] = [*(INDEX[character] for character in source), EOS]
        return tokens, np.array([len(source) for source in sources], np.int32)

    def _number(self) -> int:
        return self.random.randrange(10 ** self.random.randint(1, self.digits))

    def _first_state(self) -> tuple[Any, Any]:
        sources, lengths, targets = self.batch()
        params = jax.jit(self.model.init)(self.key, sources, lengths, targets[:, :-1])["params"]
        return params, self.tx.init(params)

    def _train_step(
        self, params: Any, opt_state: Any, sources: Any, lengths: Any, targets: Any
    ) -> tuple[Any, Any]:
        def loss_fn(params: Any) -> jax.Array:
            logits = self.model.apply({"params": params}, sources, lengths, targets[:, :-1])
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets[:, 1:])
            return jnp.where(targets[:, 1:] > 0, nll, 0.0).mean()  # 0 stands after the end

        grads = jax.grad(loss_fn)(params)
        updates, opt_state = self.tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def _decode(self, params: Any, sources: Any, lengths: Any) -> jax.Array:
        carry = self.model.apply({"params": params}, sources, lengths, method="encode")
        token, written = jnp.full((len(sources), 1), INDEX["="], jnp.int32), []
        for _ in range(self.digits + 2):
            carry, logits = self.model.apply({"params": params}, carry, token, method="step")
            token = logits.argmax(-1).astype(jnp.int32)
            written.append(token)
        return jnp.concatenate(written, axis=1)
