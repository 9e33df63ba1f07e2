"""The Keras example "Character-level recurrent sequence-to-sequence model", an epoch at a time.

One-hot characters of all the pairs; sources filled up with blanks to the longest. Targets begin
with a tab and end with a newline; the decoder's inputs are filled up with blanks to the longest,
its targets are the inputs one step later, filled up with blanks too. An LSTM of 256 units whose
last state begins another, softmax; RMSprop, cross-entropy and accuracy over all positions, blanks
after the end included; batches of 64; the last fifth of the pairs is held out.
Source: keras.io/examples/nlp/lstm_seq2seq.
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

BATCH = 64


class KerasTranslation:
    """The contestant.

    Args:
        pairs: JSON file with the sources and the targets, two lists of texts.
        held_out: so many of the last pairs.
        seed: of the parameters and of the order of the batches.
        units: of each LSTM.
    """

    def __init__(self, pairs: str, held_out: int, seed: int = 0, units: int = 256):
        keras.utils.set_random_seed(seed)
        sources, targets = json.loads(Path(pairs).read_text())
        targets = [f"\t{target}\n" for target in targets]
        self.cut = len(sources) - held_out
        self.lengths = np.array([len(target) - 1 for target in targets])
        length = max(map(len, targets))
        x, inputs = one_hot(sources, max(map(len, sources))), one_hot(targets, length)
        self.x = [x, inputs]
        self.y = one_hot([target[1:] for target in targets], length, like=targets)
        self.model = self._model(x.shape[-1], inputs.shape[-1], units)
        self.seconds = 0.0

    @staticmethod
    def _model(sources: int, targets: int, units: int) -> Any:
        encoder_inputs = keras.Input((None, sources))
        _, *state = keras.layers.LSTM(units, return_state=True)(encoder_inputs)
        decoder_inputs = keras.Input((None, targets))
        decoder = keras.layers.LSTM(units, return_sequences=True)
        hidden = decoder(decoder_inputs, initial_state=state)
        outputs = keras.layers.Dense(targets, activation="softmax")(hidden)
        model = keras.Model([encoder_inputs, decoder_inputs], outputs)
        model.compile("rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
        return model

    def epoch(self) -> dict[str, float]:
        """Train for one epoch.

        Returns:
            `seconds` of `fit` so far, and the `figures`.
        """
        cut = self.cut
        started = time.perf_counter()
        x = [part[:cut] for part in self.x]
        self.model.fit(x, self.y[:cut], batch_size=BATCH, epochs=1, verbose=0)
        self.seconds += time.perf_counter() - started
        return {"seconds": self.seconds, **self.figures()}

    def figures(self) -> dict[str, float]:
        """Of the held-out pairs.

        Returns:
            `loss` and `accuracy` as the example has them, over all positions; `nll` and
            `token_accuracy` over the characters and the end of each target; `padding_loss`, what
            the positions after the ends add to `loss`.
        """
        cut = self.cut
        x, y = [part[cut:] for part in self.x], self.y[cut:]
        loss, accuracy = self.model.evaluate(x, y, batch_size=256, verbose=0)
        probabilities = self.model.predict(x, batch_size=256, verbose=0)
        chosen = probabilities[y > 0].reshape(y.shape[:2])
        nll = -np.log(np.maximum(chosen, 1e-7), dtype=np.float64)
        real = np.arange(y.shape[1]) < self.lengths[cut:, None]
        hits = chosen >= probabilities.max(-1)
        return {
            "loss": float(loss),
            "accuracy": float(accuracy),
            "nll": float(nll[real].mean()),
            "token_accuracy": float(hits[real].mean()),
            "padding_loss": float(nll[~real].sum() / nll.size),
        }


def one_hot(texts: list[str], length: int, like: list[str] | None = None) -> Any:
    """Float[N, T, V] of texts filled up with blanks, by the characters of `like`."""
    characters = sorted({" ", *"".join(like or texts)})
    index = {character: number for number, character in enumerate(characters)}
    rows = [[index[character] for character in text.ljust(length)] for text in texts]
    return np.eye(len(characters), dtype=np.float32)[np.array(rows)]
