"""The Keras example "Sequence to sequence learning for performing number addition".

Questions padded to 7 characters and reversed (`535+61 ` is read as ` 16+535`), answers padded to 4,
all one-hot, blanks among the characters. An LSTM of 128 units, its last output repeated 4 times, an
LSTM of 128 units over these, softmax; Adam, cross-entropy over all 4 characters, batches of 32.
Source: keras.io/examples/nlp/addition_rnn. What is held out, the tenth that the example sets apart,
is handed over by the benchmark.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

CHARACTERS = " +0123456789"
BATCH = 32


class KerasAddition:
    """The contestant.

    Args:
        pairs: JSON file with the questions and the answers to train on, two lists of texts.
        digits: of each number, at most.
        seed: of the parameters and of the order of the batches.
        units: of each LSTM.
    """

    def __init__(self, pairs: str, digits: int, seed: int = 0, units: int = 128):
        keras.utils.set_random_seed(seed)
        self.digits = digits
        questions, answers = json.loads(Path(pairs).read_text())
        self.x, self.y = self.questions(questions), one_hot(answers, digits + 1)
        self.model = keras.Sequential(
            [
                keras.Input(self.x.shape[1:]),
                keras.layers.LSTM(units),
                keras.layers.RepeatVector(digits + 1),
                keras.layers.LSTM(units, return_sequences=True),
                keras.layers.Dense(len(CHARACTERS), activation="softmax"),
            ]
        )
        self.model.compile(loss="categorical_crossentropy", optimizer="adam")
        self.seconds, self.steps = 0.0, 0

    def advance(self) -> dict[str, float]:
        """Train for one epoch; the seconds are those of `fit`."""
        started = time.perf_counter()
        self.model.fit(self.x, self.y, batch_size=BATCH, epochs=1, verbose=0)
        self.seconds += time.perf_counter() - started
        self.steps += -(-len(self.x) // BATCH)
        return {"seconds": self.seconds, "steps": self.steps}

    def answers(self, sources: list[str]) -> list[str]:
        """The likeliest characters, without the blanks that stand after an answer."""
        found = self.model.predict(self.questions(sources), batch_size=1024, verbose=0).argmax(-1)
        return ["".join(CHARACTERS[i] for i in row).rstrip() for row in found.tolist()]

    def questions(self, sources: list[str]) -> Any:
        """Padded, then reversed: Bool[N, T, V]."""
        return one_hot(sources, 2 * self.digits + 1)[:, ::-1]


def one_hot(texts: list[str], length: int) -> Any:
    """Bool[N, T, V] of texts filled up with blanks."""
    rows = [[CHARACTERS.index(c) for c in text.ljust(length)] for text in texts]
    return np.eye(len(CHARACTERS), dtype=bool)[np.array(rows)]
