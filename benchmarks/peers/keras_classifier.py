"""Keras 3 on TensorFlow: the same classifier by `fit`, and its ways to predict."""

import os
from itertools import islice
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cases import cycle
from benchmarks.classifier_cases import ClassifierCase


class MaskedMax(keras.layers.Layer):
    """The largest number over the steps of a text; `GlobalMaxPooling1D` knows no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """After it there are no steps."""
        return

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is not None:
            inputs = keras.ops.where(mask[..., None], inputs, float("-inf"))
        return keras.ops.max(inputs, axis=1)


def build(case: ClassifierCase, masked: bool) -> keras.Model:
    """The model with the case's parameters: tokens (B, T) to the probability (B, 1) of label 1."""
    params = case.parameters()
    tokens = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(case.V, case.E, mask_zero=masked)
    embedded = embedding(tokens)
    layer = keras.layers.LSTM(case.H, return_sequences=case.pooling != ("last",))
    if case.bidirectional:
        layer = keras.layers.Bidirectional(layer)
    hidden = layer(embedded)
    if case.pooling == ("last",):
        features = hidden
    else:
        kinds = {"mean": keras.layers.GlobalAveragePooling1D, "max": MaskedMax}
        parts = [kinds[kind]()(hidden) for kind in case.pooling]
        features = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    head = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Model(tokens, head(features))
    embedding.set_weights([params["embedding"]])
    weights = []
    for direction in range(case.directions):
        weights += [params[f"weight_ih.{direction}"].T, params[f"weight_hh.{direction}"].T]
        weights.append(params[f"bias.{direction}"])
    layer.set_weights(weights)
    head.set_weights([params["head.weight"].T, params["head.bias"]])
    return model


class KerasTraining:
    """The contestant: a unit of `run` is one epoch of the case's plan by `fit`.

    Args:
        case: the fields of a `ClassifierCase`.
        masked: `mask_zero` of the embedding; else the padding is read like any token, which is
            another model.
        to_longest: pad all batches to one length, as tutorials do; else to the plan's lengths.
        jit_compile: compile the train step with XLA, a program a length.
    """

    def __init__(
        self,
        case: dict[str, Any],
        masked: bool = True,
        to_longest: bool = False,
        jit_compile: bool = False,
    ):
        self.case = ClassifierCase(**case)
        batches = self.case.batches(to_longest=to_longest)
        self.batches = [(t, y[:, None].astype(np.float32)) for t, _, y in batches]
        shapes = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, 1), tf.float32)
        data = tf.data.Dataset.from_generator(lambda: iter(self.batches), output_signature=shapes)
        count = tf.data.experimental.assert_cardinality(len(self.batches))
        self.dataset = data.apply(count).cache().prefetch(2)
        self.model = build(self.case, masked)
        self.start = self.model.get_weights()
        optimizer = keras.optimizers.Adam(self.case.learning_rate, epsilon=1e-8)
        self.model.compile(optimizer, "binary_crossentropy", jit_compile=jit_compile)

    def losses(self, steps: int) -> list[float]:
        """Losses of the epoch's first steps after construction, each before its update."""
        self.model.set_weights(self.start)
        found = []
        for tokens, labels in islice(cycle(self.batches), steps):
            self.model.reset_metrics()  # else `train_on_batch` returns a running mean
            found.append(float(self.model.train_on_batch(tokens, labels)))
        return found

    def run(self, steps: int) -> None:
        """Train for so many epochs."""
        self.model.fit(self.dataset, epochs=steps, verbose=0)


class KerasPrediction:
    """The contestant: a unit of `run` is one call on B texts, to probabilities on the host.

    Args:
        case: the fields of a `ClassifierCase`; texts are padded to the plan's lengths.
        method: `predict`, `predict_on_batch`, or `call` (the model in a `tf.function`).
        jit_compile: compile with XLA, a program a length.
    """

    def __init__(self, case: dict[str, Any], method: str = "predict", jit_compile: bool = False):
        self.case = ClassifierCase(**case)
        self.calls = [tokens for tokens, _, _ in self.case.batches()]
        self.model = build(self.case, masked=True)
        self.model.compile(jit_compile=jit_compile)
        if method == "call":
            function = tf.function(
                lambda tokens: self.model(tokens, training=False),
                jit_compile=jit_compile,
                reduce_retracing=not jit_compile,
            )
            self.predict = lambda tokens: function(tf.constant(tokens)).numpy()
        elif method == "predict":
            self.predict = lambda tokens: self.model.predict(tokens, verbose=0)
        else:
            self.predict = self.model.predict_on_batch
        self.stream = cycle(self.calls)
        self.run(len(self.calls))

    def probabilities(self, steps: int) -> list[list[float]]:
        """Of label 1, (B,) a call, of the plan's first calls."""
        return [np.asarray(self.predict(t))[:, 0].tolist() for t in self.calls[:steps]]

    def run(self, steps: int) -> None:
        """Make so many calls, one after the other."""
        for tokens in islice(self.stream, steps):
            self.predict(tokens)
