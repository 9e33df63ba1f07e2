"""The reference classifier of IMDB reviews in Keras, one epoch at a time.

Embedding of 32, an LSTM of 64 units, one sigmoid unit; Adam, binary cross-entropy, batches of 128;
texts padded and cut after their end to one length, without a mask (`masked` sets `mask_zero`).
"""

import os
import time
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

BATCH = 128


class KerasReference:
    """The contestant.

    Args:
        arrays: file (.npz) with `train_tokens`, `train_labels` and the same of `validation` and
            `test`: Int[N, T], 0 the padding, and 0 or 1.
        vocab_size: numbers of tokens, the padding's with them.
        seed: of the parameters and of the order of the batches.
        masked: let the LSTM skip the padding.
        embedding: size. units: of the LSTM.
    """

    def __init__(
        self,
        arrays: str,
        vocab_size: int,
        seed: int = 0,
        masked: bool = False,
        embedding: int = 32,
        units: int = 64,
    ):
        keras.utils.set_random_seed(seed)
        self.arrays = dict(np.load(arrays))
        self.model = keras.Sequential(
            [
                keras.Input((self.arrays["train_tokens"].shape[1],), dtype="int32"),
                keras.layers.Embedding(vocab_size, embedding, mask_zero=masked),
                keras.layers.LSTM(units),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        self.model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
        self.best: tuple[float, Any] = (-1.0, None)

    def epoch(self) -> dict[str, float]:
        """Train for one epoch, and keep the parameters of the best validation accuracy."""
        started = time.perf_counter()
        train = self.arrays["train_tokens"], self.arrays["train_labels"]
        history = self.model.fit(*train, batch_size=BATCH, epochs=1, verbose=0).history
        seconds = time.perf_counter() - started
        accuracy = self.accuracy("validation")
        if accuracy > self.best[0]:
            self.best = accuracy, self.model.get_weights()
        return {
            "seconds": seconds,
            "loss": float(history["loss"][0]),
            "accuracy": float(history["accuracy"][0]),
            "validation_accuracy": accuracy,
        }

    def accuracy(self, part: str) -> float:
        """Share of a part's texts on the right side of one half, by the parameters of now."""
        found = self.model.predict(self.arrays[f"{part}_tokens"], batch_size=512, verbose=0)
        return float(((found[:, 0] > 0.5) == self.arrays[f"{part}_labels"]).mean())

    def best_accuracy(self, part: str) -> float:
        """The same by the parameters that were best on the validation texts."""
        self.model.set_weights(self.best[1])
        return self.accuracy(part)
