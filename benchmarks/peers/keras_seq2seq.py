"""Keras 3 on TensorFlow: the same encoder-decoder by `fit`, and greedy decoding in a loop."""

import os
from itertools import islice
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cases import cycle
from benchmarks.seq2seq_cases import BOS, EOS, Seq2SeqCase

LSTM_PARTS = ("weight_ih", "weight_hh", "bias")


class Layers:
    """Keras's own layers of the model, with the case's parameters once they are built.

    The encoder is masked. The decoder needs no mask: its padding stands at the end, and the loss
    leaves it out.
    """

    def __init__(self, case: Seq2SeqCase):
        layers = keras.layers
        self.case = case
        self.source_embedding = layers.Embedding(case.V, case.E, mask_zero=True)
        self.embedding = layers.Embedding(case.V, case.E)
        options = {"return_state": True}
        encoder = layers.LSTM(case.H, return_sequences=case.attention != "none", **options)
        self.encoder = layers.Bidirectional(encoder) if case.bidirectional else encoder
        self.decoder = layers.LSTM(case.H, return_sequences=True, **options)
        self.bridge_h, self.bridge_c = (layers.Dense(case.H, "tanh") for _ in range(2))
        self.key, self.value, self.hidden = (layers.Dense(case.H, use_bias=False) for _ in range(3))
        self.attention = layers.Attention()
        self.add, self.tanh = layers.Add(), layers.Activation("tanh")
        self.head = layers.Dense(case.V)

    def encode(self, sources: Any) -> tuple[Any, Any, Any, Any]:
        """First h and c (B, H) of the decoder; keys and values (B, S, H), None without attention.

        The mask of the sources rides along on the two.
        """
        outputs, *states = self.encoder(self.source_embedding(sources))
        keys = values = None
        if self.case.attention != "none":
            keys, values = self.key(outputs), self.value(outputs)
        if not self.case.bidirectional:
            return *states, keys, values
        join = keras.layers.Concatenate()
        h, c = join(states[0::2]), join(states[1::2])
        return self.bridge_h(h), self.bridge_c(c), keys, values

    def decode(
        self, targets: Any, state: Any, keys: Any, values: Any, mask: Any = None
    ) -> tuple[Any, Any, Any]:
        """Logits (B, T, V) of the tokens after targets (B, T); the last h and c."""
        hidden, h, c = self.decoder(self.embedding(targets), initial_state=state)
        if keys is not None:
            inputs = [hidden, values, keys]
            context = self.attention(inputs, **({} if mask is None else {"mask": [None, mask]}))
            hidden = self.tanh(self.add([self.hidden(hidden), context]))
        return self.head(hidden), h, c

    def load(self, endless: bool) -> None:
        """Copy the case's parameters."""
        params = self.case.parameters(endless=endless)

        def lstm(name: str) -> list[np.ndarray]:
            inputs, recurrent, bias = (params[f"{name}.{part}"] for part in LSTM_PARTS)
            return [inputs.T, recurrent.T, bias]

        ways = range(self.case.directions)
        self.encoder.set_weights([x for way in ways for x in lstm(f"encoder.{way}")])
        self.decoder.set_weights(lstm("decoder"))
        for name in ("source_embedding", "embedding"):
            getattr(self, name).set_weights([params[name]])
        dense = {"head": "head"}
        if self.case.bidirectional:
            dense |= {"bridge_h": "bridge.h", "bridge_c": "bridge.c"}
        if self.case.attention != "none":
            dense |= {name: f"attention.{name}" for name in ("key", "value", "hidden")}
        for layer, name in dense.items():
            if f"{name}.weight" in params:
                weights = [params[f"{name}.weight"].T, params[f"{name}.bias"]]
            else:
                weights = [params[name].T]
            getattr(self, layer).set_weights(weights)


def build(case: Seq2SeqCase, *, endless: bool = False) -> tuple[keras.Model, Layers]:
    """The model (sources (B, S), targets so far (B, T)) to logits (B, T, V), and its layers."""
    layers = Layers(case)
    sources, targets = (keras.Input((None,), dtype="int32") for _ in range(2))
    h, c, keys, values = layers.encode(sources)
    logits, _, _ = layers.decode(targets, [h, c], keys, values)
    model = keras.Model([sources, targets], logits)
    layers.load(endless)
    return model, layers


class KerasTraining:
    """The contestant: a unit of `run` is one epoch of the case's plan by `fit`.

    Args:
        case: the fields of a `Seq2SeqCase`.
        jit_compile: compile the train step with XLA, a program a shape.
    """

    def __init__(self, case: dict[str, Any], jit_compile: bool = False):
        self.case = Seq2SeqCase(**case)
        self.batches = [
            ((sources, targets[:, :-1]), targets[:, 1:])
            for sources, _, targets, _ in self.case.batches()
        ]
        rows = tf.TensorSpec((None, None), tf.int32)
        signature = ((rows, rows), rows)
        data = tf.data.Dataset.from_generator(
            lambda: iter(self.batches), output_signature=signature
        )
        count = tf.data.experimental.assert_cardinality(len(self.batches))
        self.dataset = data.apply(count).cache().prefetch(2)
        self.model, _ = build(self.case)
        self.start = self.model.get_weights()
        optimizer = keras.optimizers.Adam(self.case.learning_rate, epsilon=1e-8)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
        self.model.compile(optimizer, loss, jit_compile=jit_compile)

    def losses(self, steps: int) -> list[float]:
        """Losses of the epoch's first steps after construction, each before its update."""
        self.model.set_weights(self.start)
        found = []
        for inputs, following in islice(cycle(self.batches), steps):
            self.model.reset_metrics()  # else `train_on_batch` returns a running mean
            found.append(float(self.model.train_on_batch(inputs, following)))
        return found

    def run(self, steps: int) -> None:
        """Train for so many epochs."""
        self.model.fit(self.dataset, epochs=steps, verbose=0)


class KerasDecoding:
    """The contestant: a unit of `run` is one call on B sources, greedily, to tokens on the host.

    A loop in Python over one compiled function, as Keras has no loop of its own.

    Args:
        case: the fields of a `Seq2SeqCase`; sources are padded to the longest of a call.
        jit_compile: compile the function of a token with XLA, a program a padded length.
    """

    def __init__(self, case: dict[str, Any], jit_compile: bool = False):
        self.case = Seq2SeqCase(**case)
        self.calls = [tokens for tokens, _ in self.case.questions()]
        _, layers = build(self.case, endless=True)

        def step(tokens: Any, h: Any, c: Any, memory: Any) -> tuple[Any, Any, Any]:
            logits, h, c = layers.decode(tokens[:, None], [h, c], *memory)
            return tf.argmax(logits[:, 0], -1, output_type=tf.int32), h, c

        def encode(sources: Any) -> tuple[Any, Any, Any]:
            h, c, keys, values = layers.encode(sources)
            return h, c, (keys, values, None if keys is None else sources != 0)

        self.encode = tf.function(encode, reduce_retracing=True)
        self.step = tf.function(step, jit_compile=jit_compile, reduce_retracing=not jit_compile)
        self.stream = cycle(self.calls)
        self.run(len(self.calls))

    def greedy(self, sources: np.ndarray) -> np.ndarray:
        """The most likely token at each step (B, N), until all texts have ended."""
        h, c, memory = self.encode(tf.constant(sources))
        tokens = tf.fill([len(sources)], BOS)
        ended = np.zeros(len(sources), bool)
        said = []
        for _ in range(self.case.new_tokens):
            tokens, h, c = self.step(tokens, h, c, memory)
            said.append(np.where(ended, 0, tokens.numpy()))
            ended |= said[-1] == EOS
            if ended.all():
                break
        return np.stack(said, 1)

    def tokens(self, steps: int) -> list[list[list[int]]]:
        """The text (B, new_tokens) a call, of the first calls."""
        return [self.greedy(call).tolist() for call in self.calls[:steps]]

    def run(self, steps: int) -> None:
        """Make so many calls, one after the other."""
        for call in islice(self.stream, steps):
            self.greedy(call)
