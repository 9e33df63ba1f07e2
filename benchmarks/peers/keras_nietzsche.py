"""The Keras example "Character-level text generation with LSTM", one epoch at a time.

One LSTM of 128 units over one-hot characters, windows of 60 characters every 3, softmax on the
last state, RMSprop at 0.01, batches of 128. Source: keras.io/examples/generative/
lstm_character_level_text_generation; here with a validation text held out.
"""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

WINDOW, STEP, BATCH = 60, 3, 128


class KerasRecipe:
    """The contestant.

    Args:
        train: file with the training text, as the model is to see it.
        validation: file with the validation text.
        limit: most training windows, for a trial; None for all.
    """

    def __init__(self, train: str, validation: str, limit: int | None = None):
        keras.utils.set_random_seed(0)
        text, held_out = (Path(path).read_text(encoding="utf-8") for path in (train, validation))
        characters = sorted(set(text + held_out))
        self.index = {character: number for number, character in enumerate(characters)}
        self.x, self.y = self.windows(text)
        if limit:
            self.x, self.y = self.x[:limit], self.y[:limit]
        self.validation = self.windows(held_out)
        self.model = keras.Sequential(
            [
                keras.Input((WINDOW, len(characters))),
                keras.layers.LSTM(128),
                keras.layers.Dense(len(characters), activation="softmax"),
            ]
        )
        self.model.compile(
            loss="categorical_crossentropy",
            optimizer=keras.optimizers.RMSprop(learning_rate=0.01),
        )

    def windows(self, text: str) -> tuple[Any, Any]:
        """One-hot windows (N, 60, V) and what follows them (N, V), booleans as in the example."""
        tokens = np.array([self.index[character] for character in text])
        rows = np.lib.stride_tricks.sliding_window_view(tokens, WINDOW + 1)[::STEP]
        one_hot = np.eye(len(self.index), dtype=bool)[rows]
        return one_hot[:, :WINDOW], one_hot[:, WINDOW]

    def epoch(self) -> float:
        """Train for one epoch; the training loss that Keras reports."""
        history = self.model.fit(self.x, self.y, batch_size=BATCH, epochs=1, verbose=0)
        return float(history.history["loss"][0])

    def evaluate(self) -> float:
        """Validation loss, nats per character."""
        return float(self.model.evaluate(*self.validation, batch_size=1024, verbose=0))

    def sizes(self) -> dict[str, int]:
        return {
            "train_windows": len(self.x),
            "validation_windows": len(self.validation[0]),
            "characters": len(self.index),
        }
