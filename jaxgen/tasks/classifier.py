"""The classifier's task: labelled texts to batches of similar length, batches to a classifier."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import ClassifierExperiment
from jaxgen.data.buckets import batches_by_length, bucket_lengths
from jaxgen.data.cleaning import make_cleaner
from jaxgen.data.labelled import LabelledCorpus
from jaxgen.data.ragged import rows_digest
from jaxgen.data.reading import TextReader
from jaxgen.data.tokenizers import PAD, Tokenizer
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError
from jaxgen.evaluation.classification import figures_from_confusion
from jaxgen.models.classifier import (
    TextClassifier,
    classifier_loss,
    depths_of,
    language_model_part,
)
from jaxgen.nn.initializers import drawn_as_keras
from jaxgen.nn.ngrams import ngram_log_odds
from jaxgen.ops.backends import RecurrenceSpec
from jaxgen.prediction.classifier import Classifier, apply_of
from jaxgen.tasks.classifier_ensemble import ensemble_classifier
from jaxgen.tasks.classifier_evaluation import evaluate, show
from jaxgen.tasks.labelled import (
    Classes,
    LabelledRows,
    evaluation_by_length,
    facts,
    labelled_parts,
    open_data,
    open_files,
    training_batches,
)
from jaxgen.tasks.task import Files, Saved, Task, tokenizer_of
from jaxgen.training.from_settings import first_state_of, optimizer_of, step_options
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.seeds import SeedLayout, backend_of_seeds
from jaxgen.training.step import make_train_step
from jaxgen.training.trainable import Objective, Trainable
from jaxgen.types import Array, PyTree, Sum

CARD = """---
library_name: jaxgen
pipeline_tag: text-classification
tags: [jax, lstm]
---
# {name}

An LSTM classifier made with jaxgen ({parameters} parameters) of the labels {labels}.

```python
import jaxgen

classifier = jaxgen.load("path/to/this/directory")
print(classifier.predict("your text"))
```
"""


def fit_files(
    experiment: ClassifierExperiment, data: LabelledCorpus, pretrained: Saved | None
) -> Files:
    """The tokenizer of the training texts, or the pretrained model's, and the labels."""
    texts, config = data.train.texts, experiment.data
    clean = make_cleaner(config)
    if pretrained is None:
        tokenizer = build_tokenizer(experiment.tokenizer, map(clean, texts), specials=(PAD,))
    else:
        tokenizer = _pretrained_tokenizer(experiment, pretrained)
    if config.max_length == "mean":
        lengths = TextReader(tokenizer, clean, max_length=2**31 - 1).read(texts)[0].lengths
        max_length = max(1, round(lengths.mean()))
    else:
        max_length = config.max_length
    classes = Classes.fit(data.train, max_length, multi_label=config.multi_label)
    return {
        "tokenizer.json": tokenizer.backend.to_str(pretty=True) + "\n",
        "classes.json": classes.to_text(),
    }


def _pretrained_tokenizer(experiment: ClassifierExperiment, pretrained: Saved) -> Tokenizer:
    """The tokenizer of the language model; UserError where the settings ask for another."""
    tokenizer = tokenizer_of(pretrained.files)
    wanted, plain = experiment.tokenizer, type(experiment).model_fields["tokenizer"].default
    same = wanted == plain or (
        wanted.kind == tokenizer.kind
        and wanted.vocab_size in (None, plain.vocab_size, tokenizer.vocab_size)
    )
    if not same:
        raise UserError(
            f"`model.pretrained` {experiment.model.pretrained} brings its own tokenizer, "
            f"{tokenizer.kind} with {tokenizer.vocab_size} tokens, and the settings ask for "
            f"{wanted.kind} with {wanted.vocab_size}; leave the section `tokenizer` out, or train "
            "the language model with that tokenizer"
        )
    return tokenizer


def reader_of(experiment: ClassifierExperiment, files: Files) -> TextReader:
    """What turns texts into rows of tokens."""
    return TextReader(
        tokenizer_of(files),
        make_cleaner(experiment.data),
        Classes.of(files).max_length,
        experiment.data.keep,
        read_padding=not experiment.model.masking,
    )


def build_model(experiment: ClassifierExperiment, files: Files) -> TextClassifier:
    """The Flax module that the settings describe."""
    settings = experiment.model.model_dump(
        exclude={"dtype", "initialization", "masking", "pretrained"}
    )
    labels = Classes.of(files).labels
    return TextClassifier(
        vocab_size=tokenizer_of(files).vocab_size,
        num_classes=len(labels.names),
        multi_label=labels.multi_label,
        dtype=jnp.dtype(experiment.model.dtype),
        **settings,
    )


def init_params(model: TextClassifier, key: Array, initialization: str = "gates") -> PyTree:
    """Fresh parameters, nested dicts of arrays."""
    tokens, lengths = jnp.zeros((1, 1), jnp.int32), jnp.ones((1,), jnp.int32)
    params = jax.jit(model.init)(key, tokens, lengths)["params"]
    if initialization == "keras":
        params = drawn_as_keras(params, jax.random.fold_in(key, 1))
    return params


def build(
    experiment: ClassifierExperiment,
    files: Files,
    data: LabelledCorpus,
    cache: Path,
    pretrained: Saved | None,
    *,
    seeds: SeedLayout | None = None,
) -> Trainable:
    """Everything that training needs, see `jaxgen.tasks.task.Build`."""
    config, classes = experiment.training, Classes.of(files)
    reader, model = reader_of(experiment, files), build_model(experiment, files)
    if seeds is not None:
        model = model.clone(backend=backend_of_seeds(model.backend))
    parts = labelled_parts(data, classes.labels, lambda texts: reader.read(texts)[0])
    batches = training_batches(experiment, parts["train"])
    tx, rate = optimizer_of(experiment.optimizer, StepSchedule(batches, config), depth_of=depths_of)
    loss_fn = partial(
        classifier_loss,
        model,
        label_smoothing=config.label_smoothing,
        class_weights=class_weights(experiment, classes),
        adversarial=config.adversarial,
        adversarial_norm=config.adversarial_norm,
        adversarial_weight=config.adversarial_weight,
    )

    return Trainable(
        init_state=first_state_of(
            partial(init_params, model, initialization=experiment.model.initialization), tx, config
        ),
        train_step_on=lambda axis_name: make_train_step(
            loss_fn, tx, axis_name=axis_name, fixed=model.fixed, **step_options(config)
        ),
        batches=batches,
        initial_carry=(),
        rates={"learning_rate": jax.jit(rate)},
        figures=figures_of,
        objective=objective(experiment, files),
        evaluation=evaluation_by_length(
            partial(classifier_loss, model if seeds else model.clone(backend="auto")),
            parts.get("validation"),
            seeds,
        ),
        digests={name: rows_digest(*part) for name, part in parts.items()},
        pretrained={
            **({} if pretrained is None else language_model_part(pretrained.params)),
            **_counted(model, parts["train"]),
        },
    )


def _counted(model: TextClassifier, part: LabelledRows) -> dict[str, np.ndarray]:
    """The log-odds of the n-grams of the training texts, where the model scores any."""
    if not model.ngrams:
        return {}
    labels = np.asarray(part.labels)
    if labels.ndim == 1:
        labels = labels[:, None] == np.arange(model.num_classes)[-model.num_outputs :]
    batches = batches_by_length(part.rows, None, 512, bucket_lengths(part.rows.lengths, 4))
    read = ((batch.tokens, batch.lengths, labels[indexes]) for indexes, batch in batches)
    return {"ngram_log_odds": ngram_log_odds(read, model.ngrams, model.ngram_buckets)}


def class_weights(experiment: ClassifierExperiment, classes: Classes) -> Array | None:
    """A weight for each label that makes their shares of the training texts equal."""
    if experiment.training.class_weights == "none":
        return None
    counts = np.maximum(classes.counts, 1)
    return jnp.asarray(counts.sum() / (len(counts) * counts), jnp.float32)


def figures_of(sums: Mapping[str, Sum]) -> dict[str, float]:
    """Nats an example, accuracy, and the mean F1 of the labels."""
    nll = float(sums["nll"].total) / max(float(sums["nll"].weight), 1.0)
    accuracy = float(sums["accuracy"].total) / max(float(sums["accuracy"].weight), 1.0)
    confusion = np.asarray(sums["confusion"].total)
    return {
        "nll": nll,
        "accuracy": accuracy,
        "f1_macro": figures_from_confusion(confusion)["f1_macro"],
    }


def objective(experiment: ClassifierExperiment, files: Files) -> Objective:
    """The figure that the settings name."""
    name = experiment.training.objective
    unit = "nats per example" if name == "nll" else ""
    return Objective(name, higher_is_better=name != "nll", unit=unit, counts="examples")


def load(experiment: ClassifierExperiment, files: Files, params: PyTree) -> Classifier:
    """The trained model."""
    classes = Classes.of(files)
    return Classifier(
        params=params,
        config=experiment,
        tokenizer=tokenizer_of(files),
        labels=classes.labels,
        apply=apply_of(build_model(experiment, files).clone(backend="auto")),
        max_length=classes.max_length,
    )


def init_shapes(experiment: ClassifierExperiment, files: Files) -> PyTree:
    """Shapes and types of the parameters."""
    return jax.eval_shape(partial(init_params, build_model(experiment, files)), jax.random.key(0))


def recurrence(experiment: ClassifierExperiment) -> tuple[str, RecurrenceSpec]:
    """The backend asked for, and the recurrence of the longest training step."""
    model, longest = experiment.model, experiment.data.max_length
    spec = RecurrenceSpec(
        T=longest if isinstance(longest, int) else 256,
        B=experiment.training.batch_size,
        H=model.hidden_size,
        dtype=model.dtype,
        cell=model.cell,
    )
    return model.backend, spec


CLASSIFIER = Task(
    open_data=open_data,
    fit_files=fit_files,
    build=build,
    load=load,
    init_shapes=init_shapes,
    evaluate=evaluate,
    facts=facts,
    objective=objective,
    command="predict",
    ensemble=ensemble_classifier,
    open_files=open_files,
    begins_from=("language_model",),
    evaluate_options=("threshold", "temperature", "plots", "baselines"),
    recurrence=recurrence,
    card=CARD,
    show=show,
)
