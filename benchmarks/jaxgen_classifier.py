"""jaxgen's own contestants in classifying: its train step over bucketed rows, and predictions."""

import dataclasses
import time
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import cycle
from benchmarks.classifier_cases import ClassifierCase, Ints
from benchmarks.jaxgen_epochs import BLOCK, EpochTraining
from jaxgen.data.buckets import BucketedRows, bucket_lengths
from jaxgen.data.ragged import Ragged
from jaxgen.models.classifier import TextClassifier, classifier_loss
from jaxgen.prediction.batches import BATCH, over_devices
from jaxgen.training.parallel import request_host_devices
from jaxgen.training.step import LossFn


def bucketed(case: ClassifierCase, labels: Ints) -> BucketedRows:
    """The case's texts as batches, with any labels."""
    rows = Ragged.from_rows(case.texts())
    lengths = bucket_lengths(rows.lengths, case.buckets)
    return BucketedRows(rows, labels, case.B, lengths, seed=case.seed, block=BLOCK)


def planned(case: ClassifierCase) -> ClassifierCase:
    """The case with the batches of its first epoch.

    Raises:
        ValueError: the texts do not fill whole batches, which no peer knows to leave rows out of.
    """
    if case.rows % case.B:
        raise ValueError(f"`rows` must be a multiple of the batch of {case.B}, got {case.rows}")
    source = bucketed(case, np.arange(case.rows, dtype=np.int32))
    batches = [source.read(0, index, 1) for index in range(source.batches_per_epoch)]
    plan = tuple((int(b.tokens.shape[-1]), tuple(b.labels[0].tolist())) for b in batches)
    return dataclasses.replace(case, plan=plan)


def model_of(case: ClassifierCase, dtype: str = "float32", backend: str = "auto") -> TextClassifier:
    return TextClassifier(
        vocab_size=case.V,
        num_classes=2,
        hidden_size=case.H,
        embedding_size=case.E,
        bidirectional=case.bidirectional,
        pooling=tuple(case.pooling),
        dtype=jnp.dtype(dtype),
        backend=backend,
    )


def params_of(case: ClassifierCase) -> dict[str, Any]:
    """The case's parameters as jaxgen's module names and orders them (kernels transposed)."""
    source = case.parameters()
    lstm = {
        f"layer_0{way}": {
            "input_kernel": jnp.asarray(source[f"weight_ih.{direction}"].T),
            "recurrent_kernel": jnp.asarray(source[f"weight_hh.{direction}"].T),
            "bias": jnp.asarray(source[f"bias.{direction}"]),
        }
        for direction, way in enumerate(("", "_reverse")[: case.directions])
    }
    return {
        "embedding": jnp.asarray(source["embedding"]),
        "lstm": lstm,
        "output_kernel": jnp.asarray(source["head.weight"].T),
        "output_bias": jnp.asarray(source["head.bias"]),
    }


def loss_of(model: TextClassifier) -> LossFn:
    """The package's loss, without dropout."""

    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        del key
        return classifier_loss(model, params, carry, batch)

    return loss_fn


class JaxgenTraining(EpochTraining):
    """The contestant: a unit of `run` is one epoch, see `EpochTraining`.

    Args:
        case: the fields of a `ClassifierCase`.
        devices: host devices of data parallelism.
        dtype: compute type.
        backend: of the recurrence.
    """

    def __init__(
        self,
        case: dict[str, Any],
        devices: int = 1,
        dtype: str = "float32",
        backend: str = "auto",
    ):
        request_host_devices(devices)
        self.case = ClassifierCase(**case)
        super().__init__(
            bucketed(self.case, self.case.labels()),
            loss_of(model_of(self.case, dtype, backend)),
            partial(params_of, self.case),
            self.case.learning_rate,
            devices,
        )


class JaxgenPrediction:
    """The contestant: a unit of `run` is one call on B texts, to probabilities on the host.

    One jitted function of parameters, padded tokens and lengths, as `Classifier.apply`, called
    from Python; one program for each padded length of the plan. A batch of 64 is divided over the
    cores, as `Classifier.predict` does it.

    Args:
        case: the fields of a `ClassifierCase`.
        dtype: compute type.
    """

    def __init__(self, case: dict[str, Any], dtype: str = "float32"):
        request_host_devices()  # as `jaxgen predict` does
        self.case = ClassifierCase(**case)
        params = params_of(self.case)
        model = model_of(self.case, dtype)

        @jax.jit
        def apply(params: Any, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
            return jax.nn.softmax(model.apply({"params": params}, tokens, lengths))

        whole = self.case.B == BATCH
        self.read = over_devices(apply, params) if whole else partial(apply, params)
        self.calls = [(tokens, lengths) for tokens, lengths, _ in self.case.batches()]
        self.stream = cycle(self.calls)
        started = time.perf_counter()
        self.run(len(self.calls))
        self.compile_seconds = time.perf_counter() - started

    def probabilities(self, steps: int) -> list[list[float]]:
        """Of label 1, (B,) a call, of the plan's first calls."""
        found = [self.read(*call)[:, 1] for call in self.calls[:steps]]
        return np.asarray(found).tolist()

    def run(self, steps: int) -> None:
        """Make so many calls, one after the other."""
        for call in islice(self.stream, steps):
            np.asarray(self.read(*call))

    def facts(self) -> dict[str, Any]:
        """Seconds of the first calls: tracing, compilation, and one run each."""
        return {"compile_seconds": self.compile_seconds}


class JaxgenTexts:
    """`classifier.predict`, strings in and labels out: a unit of `run` is one call on B texts.

    Cleaning, tokens and batches are in the time, which no peer here does. Each token of the case is
    a word; its parameters are random. Padded lengths are those of a model that was loaded.

    Args:
        case: the fields of a `ClassifierCase`.
    """

    def __init__(self, case: dict[str, Any]):
        from jaxgen.config import ClassifierConfig, ClassifierExperiment, LabelledData
        from jaxgen.config.classifier import ClassifierTokenizer
        from jaxgen.data.labels import LabelSet
        from jaxgen.data.tokenizers import PAD
        from jaxgen.data.vocabulary import build_tokenizer
        from jaxgen.prediction.classifier import Classifier, apply_of

        request_host_devices()
        self.case = ClassifierCase(**case)
        kind = ClassifierTokenizer(kind="word", vocab_size=None)
        words = " ".join(f"w{number}" for number in range(self.case.V))
        tokenizer = build_tokenizer(kind, [words], specials=(PAD,))
        own = dataclasses.replace(self.case, V=tokenizer.vocab_size)
        settings = {"hidden_size": own.H, "embedding_size": own.E, "pooling": own.pooling}
        self.classifier = Classifier(
            params=params_of(own),
            config=ClassifierExperiment(
                data=LabelledData(lowercase=True),
                tokenizer=kind,
                model=ClassifierConfig(**settings, bidirectional=own.bidirectional),
            ),
            tokenizer=tokenizer,
            labels=LabelSet(("0", "1")),
            apply=apply_of(model_of(own)),
            max_length=own.max_length,
        )
        texts = [" ".join(f"w{token}" for token in text) for text in own.texts()]
        self.calls = [[texts[row] for row in rows] for _, rows in own.plan]
        self.stream = cycle(self.calls)
        started = time.perf_counter()
        self.run(len(self.calls))
        self.compile_seconds = time.perf_counter() - started

    def probabilities(self, steps: int) -> list[list[float]]:
        """Of label 1, (B,) a call; not those of the others, whose vocabulary is another."""
        found = [self.classifier.probabilities(call)[:, 1] for call in self.calls[:steps]]
        return np.asarray(found).tolist()

    def run(self, steps: int) -> None:
        """Make so many calls, one after the other."""
        for call in islice(self.stream, steps):
            self.classifier.predict(call)

    facts = JaxgenPrediction.facts
