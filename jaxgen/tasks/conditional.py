"""The conditional language model's task: labelled texts to a model that writes under a label."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.config import ConditionalExperiment
from jaxgen.data.buckets import LabelDropout, batches_by_length, bucket_lengths
from jaxgen.data.labelled import LabelledCorpus, load_labelled
from jaxgen.data.labels import LabelSet
from jaxgen.data.ragged import Ragged, rows_digest
from jaxgen.data.tokenizers import EOS, PAD, Tokenizer
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.evaluation.perplexity import perplexity
from jaxgen.evaluation.sums import make_sums
from jaxgen.generation.joined import JoinedStep, ensemble_model
from jaxgen.generation.text import TextModel
from jaxgen.models.conditional import conditional_loss
from jaxgen.models.language_model import LanguageModel
from jaxgen.ops.backends import RecurrenceSpec
from jaxgen.tasks.conditional_control import (
    CONTROL_MODELS,
    CONTROL_OPTIONS,
    evaluate_control,
    show,
)
from jaxgen.tasks.joined_evaluation import text_loss
from jaxgen.tasks.labelled import (
    EVALUATION_ROWS,
    Classes,
    LabelledRows,
    evaluation_by_length,
    facts,
    labelled_parts,
    open_data,
    open_files,
    training_batches,
)
from jaxgen.tasks.language_model import (
    figures_of,
    init_params,
    module_of,
    objective,
    text_model,
    unit_of,
)
from jaxgen.tasks.output_layer import fit_output, module_settings
from jaxgen.tasks.task import Files, Saved, Task, tokenizer_of
from jaxgen.training.from_settings import first_state_of, optimizer_of, step_options
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.seeds import SeedLayout, backend_of_seeds
from jaxgen.training.step import make_train_step
from jaxgen.training.trainable import Sample, Trainable
from jaxgen.types import PyTree

CARD = """---
library_name: jaxgen
pipeline_tag: text-generation
tags: [jax, lstm]
---
# {name}

An LSTM language model made with jaxgen ({parameters} parameters, {vocab_size} tokens) that follows
a label: {labels}.

```python
import jaxgen

lm = jaxgen.load("path/to/this/directory")
print(lm.generate("", label=lm.labels[0], guidance=2.0, temperature=0.7, key=0))
```
"""


def fit_files(
    experiment: ConditionalExperiment, data: LabelledCorpus, pretrained: Saved | None
) -> Files:
    """The tokenizer of the training texts, and the labels."""
    config = experiment.data
    texts = _lines(experiment.tokenizer.kind, data.train.texts)
    tokenizer = build_tokenizer(
        experiment.tokenizer, texts, lowercase=config.lowercase, specials=(PAD, EOS)
    )

    def count_tokens() -> np.ndarray:
        ids = encode(tokenizer, config.max_length, data.train.texts).ids
        return np.bincount(ids, minlength=tokenizer.vocab_size)

    return {
        "tokenizer.json": tokenizer.backend.to_str(pretty=True) + "\n",
        "classes.json": Classes.fit(data.train, config.max_length).to_text(),
        **fit_output(experiment.model, count_tokens),
    }


def _lines(kind: str, texts: Sequence[str]) -> Sequence[str]:
    """The texts; of words, without line breaks, which would be their end."""
    return [" ".join(text.split()) for text in texts] if kind == "word" else texts


def encode(tokenizer: Tokenizer, max_length: int, texts: Sequence[str]) -> Ragged:
    """A row a text: <eos>, its tokens, <eos>; a longer one than `max_length` has no end."""
    end = np.array([tokenizer.eos_id], np.int32)
    encoded, _ = tokenizer.encode_many(_lines(tokenizer.kind, texts))
    rows = Ragged.from_rows(np.concatenate([end, ids, end]) for ids in encoded)
    return rows.cut(max_length + 2)


def _parts(files: Files, data: LabelledCorpus) -> dict[str, LabelledRows]:
    tokenizer, classes = tokenizer_of(files), Classes.of(files)
    return labelled_parts(data, classes.labels, partial(encode, tokenizer, classes.max_length))


def _model_of(experiment: ConditionalExperiment, files: Files) -> LanguageModel:
    """The Flax module that the settings describe."""
    return LanguageModel(
        vocab_size=tokenizer_of(files).vocab_size,
        num_labels=len(Classes.of(files).labels) + 1,
        **module_settings(experiment.model, files),
    )


def build(
    experiment: ConditionalExperiment,
    files: Files,
    data: LabelledCorpus,
    cache: Path,
    pretrained: Saved | None,
    *,
    seeds: SeedLayout | None = None,
) -> Trainable:
    """Everything that training needs, see `jaxgen.tasks.task.Build`."""
    config, model = experiment.training, _model_of(experiment, files)
    if seeds is not None:
        model = model.clone(backend=backend_of_seeds(model.backend))
    parts = _parts(files, data)
    dropout = LabelDropout(config.label_dropout, null=model.num_labels - 1)
    batches = training_batches(experiment, parts["train"], dropout)
    tx, rate = optimizer_of(experiment.optimizer, StepSchedule(batches, config))
    loss_fn = partial(conditional_loss, model)

    return Trainable(
        init_state=first_state_of(partial(init_params, model), tx, config),
        train_step_on=lambda axis_name: make_train_step(
            loss_fn, tx, axis_name=axis_name, **step_options(config)
        ),
        batches=batches,
        initial_carry=(),
        rates={"learning_rate": jax.jit(rate)},
        figures=partial(figures_of, unit=unit_of(tokenizer_of(files))),
        objective=objective(experiment, files),
        evaluation=evaluation_by_length(
            partial(conditional_loss, model if seeds else model.clone(backend="auto")),
            parts.get("validation"),
            seeds,
        ),
        sample=None if seeds else _sampler(experiment, files, model),
        digests={name: rows_digest(*part) for name, part in parts.items()},
    )


def _sampler(
    experiment: ConditionalExperiment, files: Files, model: LanguageModel
) -> Callable[[PyTree], list[Sample]] | None:
    """What writes the samples that an evaluation shows: a text for each label and strength."""
    settings = experiment.samples
    if not settings.guidance:
        return None
    lm = _text_model(experiment, files, model, {})
    grid = list(product(lm.labels, settings.guidance))

    def write(params: PyTree) -> list[Sample]:
        texts = replace(lm, params=params).generate(
            [""] * len(grid),
            label=[label for label, _ in grid],
            guidance=[strength for _, strength in grid],
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            key=experiment.training.seed,
        )
        return [
            Sample(f"{label}, guidance {strength:g}", text)
            for (label, strength), text in zip(grid, texts, strict=True)
        ]

    return write


def load(experiment: ConditionalExperiment, files: Files, params: PyTree) -> TextModel:
    """The trained model."""
    return _text_model(experiment, files, _model_of(experiment, files), params)


def _text_model(
    experiment: ConditionalExperiment, files: Files, model: LanguageModel, params: PyTree
) -> TextModel:
    tokenizer = tokenizer_of(files)
    lm = text_model(experiment, model, tokenizer, params)
    return replace(lm, labels=Classes.of(files).labels.names, end_token=tokenizer.eos_id)


def init_shapes(experiment: ConditionalExperiment, files: Files) -> PyTree:
    """Shapes and types of the parameters."""
    return jax.eval_shape(partial(init_params, _model_of(experiment, files)), jax.random.key(0))


def evaluate(lm: TextModel, data: LabelledCorpus, options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a model on a part of a corpus.

    Args:
        lm: From `load`.
        data: The corpus.
        options: `split`, the part; with any of `CONTROL_OPTIONS` control is measured, see
            `jaxgen.tasks.conditional_control.evaluate_control`.

    Returns:
        Without control: `texts`; `tokens` counted, each text's end too; `nll` in nats per token
        under each text's own label, its `perplexity` (and `bpc`, bits per token, where tokens are
        characters or bytes); and the same with `_null`, under the null label.
    """
    if options.keys() & set(CONTROL_OPTIONS):
        return evaluate_control(lm, data, options)
    texts, config = getattr(data, options["split"]), lm.config
    rows = encode(lm.tokenizer, config.data.max_length, texts.texts)
    labels = LabelSet(lm.labels).encode(texts.labels, texts.name)
    joined = isinstance(lm.step_fn, JoinedStep)
    loss_fn = partial(text_loss, lm) if joined else partial(conditional_loss, module_of(lm))
    sums = make_sums(loss_fn, batches_per_dispatch=8)
    lengths = bucket_lengths(rows.lengths, 4)

    def measured(labels: np.ndarray, suffix: str) -> dict[str, Any]:
        batches = batches_by_length(rows, labels, EVALUATION_ROWS, lengths)
        nll = sums(lm.params, (), (batch for _, batch in batches))["nll"]
        figures = {
            "tokens": round(float(nll.weight)),
            "perplexity": perplexity(float(nll.total / nll.weight)),
            **figures_of({"nll": nll}, unit_of(lm.tokenizer)),
        }
        return {name + suffix: value for name, value in figures.items()}

    null = np.full_like(labels, len(lm.labels))
    found = {"text": texts.name, "texts": len(rows), **measured(labels, "")}
    return found | measured(null, "_null")


def training_tokens(lm: TextModel) -> np.ndarray:
    """Ids of the texts that a model was trained on, each with its ends.

    Raises:
        UserError: The corpus is not there any more.
    """
    texts = load_labelled(lm.config.data).train.texts
    return encode(lm.tokenizer, lm.config.data.max_length, texts).ids


def recurrence(experiment: ConditionalExperiment) -> tuple[str, RecurrenceSpec]:
    """The backend asked for, and the recurrence of the longest training step."""
    model = experiment.model
    spec = RecurrenceSpec(
        T=experiment.data.max_length + 1,
        B=experiment.training.batch_size,
        H=model.hidden_size,
        dtype=model.dtype,
        conditioned=model.condition == "input",
        cell=model.cell,
    )
    return model.backend, spec


CONDITIONAL = Task(
    open_data=open_data,
    fit_files=fit_files,
    build=build,
    load=load,
    init_shapes=init_shapes,
    evaluate=evaluate,
    facts=facts,
    objective=objective,
    command="generate",
    ensemble=ensemble_model,
    open_files=open_files,
    evaluate_options=CONTROL_OPTIONS,
    evaluates_with=CONTROL_MODELS,
    training_tokens=training_tokens,
    recurrence=recurrence,
    card=CARD,
    show=show,
)
