"""Keras 3 on TensorFlow: the same language model by `train_on_batch` or `fit`, stateful."""

import os
from itertools import islice
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cases import Case, cycle


def set_threads(threads: int) -> None:
    """Limit TensorFlow's pools; 0 leaves its default, all cores. Before the first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


class KerasTraining:
    """The contestant: Adam with clipping by global norm, dense targets.

    Args:
        case: the fields of a `Case`.
        threads: of each TensorFlow pool; 0 for its default.
        jit_compile: compile the train step with XLA.
        method: `train_on_batch`, or `fit` with the whole pool of batches in one execution.
    """

    def __init__(
        self,
        case: dict[str, Any],
        threads: int = 0,
        jit_compile: bool = False,
        method: str = "train_on_batch",
        pool: int = 16,
    ):
        set_threads(threads)
        self.case = Case(**case)
        self.method = method
        self.pool = pool
        windows = self.case.batches(pool)
        self.batches = [(w[:, :-1], w[:, 1:]) for w in windows]
        self.dataset = tf.data.Dataset.from_tensor_slices((windows[..., :-1], windows[..., 1:]))
        self.model = self.build(jit_compile)
        self.stream = cycle(self.batches)

    def build(self, jit_compile: bool) -> keras.Model:
        case = self.case
        params = case.parameters()
        tokens = keras.Input(batch_shape=(case.B, case.T), dtype="int32")
        if case.E:
            hidden = keras.layers.Embedding(case.V, case.E, name="embedding")(tokens)
        else:
            hidden = keras.ops.one_hot(tokens, case.V)
        for layer in range(case.L):
            lstm = keras.layers.LSTM(
                case.H, return_sequences=True, stateful=True, name=f"lstm_{layer}"
            )
            hidden = lstm(hidden)
        logits = keras.layers.Dense(case.V, name="head")(hidden)
        model = keras.Model(tokens, logits)
        if case.E:
            model.get_layer("embedding").set_weights([params["embedding"]])
        for layer in range(case.L):
            model.get_layer(f"lstm_{layer}").set_weights(
                [
                    params[f"weight_ih.{layer}"].T,
                    params[f"weight_hh.{layer}"].T,
                    params[f"bias.{layer}"],
                ]
            )
        model.get_layer("head").set_weights([params["head.weight"].T, params["head.bias"]])
        model.compile(
            optimizer=keras.optimizers.Adam(
                case.learning_rate, epsilon=1e-8, global_clipnorm=case.clip_norm
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile,
            steps_per_execution=self.pool if self.method == "fit" else 1,
        )
        return model

    def losses(self, steps: int) -> list[float]:
        """Losses of the first steps after construction, each before its update."""
        found = []
        for inputs, targets in islice(self.stream, steps):
            self.model.reset_metrics()  # else `train_on_batch` returns a running mean
            found.append(float(self.model.train_on_batch(inputs, targets)))
        return found

    def run(self, steps: int) -> None:
        """Train; both methods return after the last step is done."""
        if self.method == "fit":
            data = self.dataset.repeat().take(steps)
            self.model.fit(data, epochs=1, verbose=0, shuffle=False)
        else:
            for inputs, targets in islice(self.stream, steps):
                self.model.train_on_batch(inputs, targets)


class KerasPredictSampling:
    """The notebook's loop: `model.predict` on the last 60 one-hot characters for each new one.

    Args:
        case: the fields of a `Case`; a unit of `run` samples T / `parts` characters.
        parts: see there.
        window: characters read for each new one.
    """

    def __init__(self, case: dict[str, Any], parts: int = 1, window: int = 60):
        self.case = Case(**case)
        self.length = self.case.T // parts
        self.window = window
        self.model = keras.Sequential([keras.Input((window, self.case.V))])
        for layer in range(self.case.L):
            last = layer == self.case.L - 1
            self.model.add(keras.layers.LSTM(self.case.H, return_sequences=not last))
        self.model.add(keras.layers.Dense(self.case.V, activation="softmax"))
        self.rng = np.random.default_rng(0)
        self.sample(2)

    def sample(self, length: int, temperature: float = 1.0) -> list[int]:
        """New characters after a random window."""
        size = self.case.V
        text = list(self.rng.integers(0, size, self.window))
        for _ in range(length):
            inputs = np.zeros((1, self.window, size), "float32")
            inputs[0, np.arange(self.window), text[-self.window :]] = 1.0
            probabilities = self.model.predict(inputs, verbose=0)[0].astype("float64")
            scaled = np.exp(np.log(probabilities) / temperature)
            text.append(int(np.argmax(self.rng.multinomial(1, scaled / scaled.sum()))))
        return text[self.window :]

    def run(self, steps: int) -> None:
        """Make so many texts."""
        for _ in range(steps):
            self.sample(self.length)
