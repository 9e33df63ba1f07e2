"""A trained classifier: texts in, labels with their probabilities out."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, overload

import jax
import numpy as np

from jaxgen.data.cleaning import make_cleaner
from jaxgen.data.labels import LabelSet
from jaxgen.data.ragged import Ragged
from jaxgen.data.reading import TextReader
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import UserError
from jaxgen.prediction.batches import BATCH, Apply, Read, logits_of, over_devices, powers_of_two
from jaxgen.prediction.explain import Explanation, occlusion_weights, read_part, word_spans
from jaxgen.prediction.predictions import (
    Prediction,
    check_temperature,
    check_threshold,
    index_of,
    log_odds_of,
    predictions_of,
    probabilities_of,
)
from jaxgen.types import Array, Float, Int, PyTree
from jaxgen.windows import WINDOW, windows


class UnreadTextWarning(UserWarning):
    """Texts without a token that the model knows were classified."""


@lru_cache(maxsize=8)
def apply_of(model: Any) -> Apply:
    """The jitted `apply(params, tokens, lengths)` of a Flax module; equal modules share one.

    Args:
        model: a `jaxgen.models.classifier.TextClassifier`, or another with the same call.
    """

    def apply(
        params: PyTree, tokens: Int[Array, "B T"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B C"]:
        return model.apply({"params": params}, tokens, lengths)

    return jax.jit(apply)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier, as `jaxgen.load` gives it.

    A row of a batch does not depend on the rows beside it: its logits are those of the text alone,
    but for the rounding of float32 (about 1e-6), which other padded shapes order otherwise.

    For research code, the logits of two texts as one function of the parameters, to differentiate,
    `vmap` or compile into something larger:

        classifier.apply(classifier.params, tokens, lengths)

    with `tokens, lengths = classifier.encode(["a text", "another"])`.
    """

    params: PyTree
    config: Any
    """The settings it was trained with."""
    tokenizer: Tokenizer
    labels: LabelSet
    apply: Apply
    """Jitted: (params, tokens Int[B, T], lengths Int[B]) -> logits Float32[B, C]. Tokens beyond the
    length of a row say nothing."""
    max_length: int
    """Tokens of a text that are read."""
    padded_lengths: tuple[int, ...] = ()
    """Lengths that full batches are padded to, ascending; empty: powers of two."""

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, texts: str, *, threshold: float | None = None, temperature: float | None = None
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        texts: Sequence[str],
        *,
        threshold: float | None = None,
        temperature: float | None = None,
    ) -> list[Prediction]: ...
    def predict(
        self, texts: Any, *, threshold: float | None = None, temperature: float | None = None
    ) -> Any:
        """Classify a text, or each of several.

        Among several texts an empty one is classified as well, as is one that holds no token the
        model knows; one warning counts them. A single text that is empty is refused.

        Args:
            texts: a text, or a list of them. All but the first (or last) tokens of a long one are
                left out, as in training.
            threshold: of two classes the second is predicted where its probability reaches this; of
                several labels at once each; None takes `prediction.threshold` of the settings.
            temperature: logits are divided by it before they become probabilities; None takes
                `prediction.temperature` of the settings.

        Returns:
            A `Prediction`, or a list of them in the order of the texts.

        Raises:
            UserError: The single text is empty, something is no text, or an option is out of range.
        """
        if not isinstance(texts, str):
            _check_several(texts)
            return list(self.stream(texts, threshold=threshold, temperature=temperature))
        _check_not_empty(texts)
        (prediction,) = self.stream([texts], threshold=threshold, temperature=temperature)
        return prediction

    def stream(
        self,
        texts: Iterable[str],
        *,
        threshold: float | None = None,
        temperature: float | None = None,
        window: int = WINDOW,
        max_wait: float | None = None,
    ) -> Iterator[Prediction]:
        """Yield the predictions of any number of texts, in their order and in bounded memory.

        Texts are read a window at a time, when the first prediction of the window is asked for.
        Within one they are batched by length.

        Args:
            texts: they may be without end.
            threshold: as in `predict`.
            temperature: as in `predict`.
            window: texts that are held at once.
            max_wait: a window ends early where its texts take longer than this many seconds to
                come, so that a slow source is answered text by text; None always fills it.

        Raises:
            UserError: as in `predict`.
        """
        if window < 1:
            raise UserError(f"`window` must be at least 1, got {window}")
        _check_several(texts)
        check_threshold(threshold, self.labels)
        limit = self.config.prediction.threshold if threshold is None else threshold
        logits = self._logits(texts, window, max_wait)
        return self._predictions(logits, limit, self._temperature(temperature))

    def probabilities(
        self, texts: Sequence[str], *, temperature: float | None = None
    ) -> Float[np.ndarray, "N C"]:
        """Probability of each label for each text, float64; `labels.names` names the columns."""
        temperature = self._temperature(temperature)
        return probabilities_of(self.logits(texts), self.labels.multi_label, temperature)

    def logits(self, texts: Sequence[str]) -> Float[np.ndarray, "N C"]:
        """Logits of each label for each text, float32, before any temperature."""
        _check_several(texts)
        found = list(self._logits(texts))
        if not found:
            return np.zeros((0, len(self.labels.names)), np.float32)
        return np.concatenate(found)

    def encode(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "N T"], Int[np.ndarray, " N"]]:
        """Tokens, zero beyond the length, and lengths of some texts, as `apply` takes them.

        T is the length of the longest.
        """
        _check_several(texts)
        rows, _ = self.reader.read(texts)
        width = int(rows.lengths.max(initial=1))
        return rows.padded(np.arange(len(rows)), width)

    def explain(
        self,
        text: str,
        *,
        label: str | None = None,
        threshold: float | None = None,
        temperature: float | None = None,
    ) -> Explanation:
        """Weigh the words of a text by how the log-odds change where each is taken out.

        Args:
            text: one text.
            label: what to explain; None is the predicted label.
            threshold: as in `predict`.
            temperature: as in `predict`.

        Raises:
            UserError: as in `stream`, or there is no such label.
        """
        (prediction,) = self.stream([text], threshold=threshold, temperature=temperature)
        return self.explain_prediction(text, prediction, label=label, temperature=temperature)

    def explain_prediction(
        self,
        text: str,
        prediction: Prediction,
        *,
        label: str | None = None,
        temperature: float | None = None,
    ) -> Explanation:
        """As `explain`, of a prediction that is known; warns of nothing."""
        label = prediction.label if label is None else label
        index = index_of(label, self.labels.names)
        temperature, multi_label = self._temperature(temperature), self.labels.multi_label

        def log_odds(texts: Iterable[str]) -> Float[np.ndarray, " M"]:
            found = self._logits(texts, warn=False)
            return np.concatenate([log_odds_of(x, index, multi_label, temperature) for x in found])

        spans = word_spans(text, tags=self.config.data.strip_html)
        part, kept = read_part(text, spans, self.reader.count, self.max_length, self.reader.keep)
        weights = occlusion_weights(part, kept, len(spans), log_odds)
        return Explanation(text, tuple(spans), weights, label, prediction)

    def read(self, texts: Sequence[Any]) -> tuple[Ragged, int]:
        """The tokens of each text, and how many texts hold nothing that the model knows.

        Raises:
            UserError: one of them is no str.
        """
        return self.reader.read(texts)

    def logits_of_rows(self, rows: Ragged) -> Float[np.ndarray, "N C"]:
        """Logits of texts that `read` gave, at least one."""
        return logits_of(*self._read, rows, *self._lengths)

    def warm_up(self) -> None:
        """Compile every shape that texts are padded to, so that no text waits for it later."""
        for read, count, lengths in zip(self._read, (BATCH, 1), self._lengths, strict=True):
            for length in lengths:
                tokens = np.zeros((count, length), np.int32)
                jax.block_until_ready(read(tokens, np.full(count, length, np.int32)))

    @cached_property
    def reader(self) -> TextReader:
        """How it reads a text."""
        data = self.config.data
        return TextReader(
            self.tokenizer,
            make_cleaner(data),
            self.max_length,
            data.keep,
            read_padding=not self.config.model.masking,
        )

    @cached_property
    def _read(self) -> tuple[Read, Read]:
        """The model on full batches, and on a text alone."""
        return over_devices(self.apply, self.params), partial(self.apply, self.params)

    @cached_property
    def _lengths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Padded lengths of batches, and of texts alone."""
        alone = powers_of_two(self.max_length)
        longer = alone[-1:] if max(self.padded_lengths, default=0) < self.max_length else ()
        return (*self.padded_lengths, *longer) if self.padded_lengths else alone, alone

    def _temperature(self, temperature: float | None) -> float:
        if temperature is None:
            return self.config.prediction.temperature
        check_temperature(temperature)
        return temperature

    def _logits(
        self,
        texts: Iterable[str],
        window: int = WINDOW,
        max_wait: float | None = None,
        warn: bool = True,
    ) -> Iterator[Float[np.ndarray, "N C"]]:
        """The logits of each window of texts."""
        silent = total = 0
        for some in windows(texts, window, max_wait):
            rows, unread = self.read(some)
            silent, total = silent + unread, total + len(rows)
            yield self.logits_of_rows(rows)
        if silent and warn:
            warnings.warn(says_nothing(silent, total), UnreadTextWarning, stacklevel=4)

    def _predictions(
        self, logits: Iterator[Float[np.ndarray, "N C"]], threshold: float, temperature: float
    ) -> Iterator[Prediction]:
        for some in logits:
            found = probabilities_of(some, self.labels.multi_label, temperature)
            yield from predictions_of(found, self.labels, threshold)


def says_nothing(silent: int, total: int) -> str:
    """What to warn of where so many of all texts have no token that the model knows."""
    what = "the text has" if total == 1 else f"{silent:,} of {total:,} texts have"
    whose = "its prediction is" if total == 1 else "their predictions are"
    return f"{what} no token that the model knows; {whose} what it says of an empty text"


def _check_several(texts: object) -> None:
    """UserError for one text where several are taken: it would be read as so many characters."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise UserError(f"`texts` must be several texts, such as a list, got {texts!r:.80}")


def _check_not_empty(text: str) -> None:
    if not text.strip():
        raise UserError(
            f"the text to classify is empty, got {text!r:.20}; give one with words (in a list, an "
            "empty text is classified too)"
        )
