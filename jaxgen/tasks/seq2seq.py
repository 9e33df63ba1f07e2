"""The task of sequence to sequence: pairs of texts to an encoder-decoder that translates."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import Seq2SeqExperiment
from jaxgen.data.pair_buckets import PairBatches, pair_shapes
from jaxgen.data.pairs import PairCorpus, Pairs, load_pairs, read_pairs
from jaxgen.data.ragged import rows_digest
from jaxgen.data.tokenizers import BOS, EOS, PAD, Tokenizer
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError
from jaxgen.evaluation.translation_tables import translation_tables
from jaxgen.generation.joined import ensemble_translator
from jaxgen.generation.translator import Translator
from jaxgen.models.seq2seq import Seq2Seq, language_model_part, seq2seq_loss
from jaxgen.models.seq2seq_decoding import (
    attention_of,
    initial_carry_of,
    prefill_fn_of,
    step_fn_of,
)
from jaxgen.ops.backends import RecurrenceSpec
from jaxgen.tasks.output_layer import fit_output, module_settings, output_facts
from jaxgen.tasks.seq2seq_evaluation import (
    EVALUATE_OPTIONS,
    encode,
    evaluate,
    figures_of,
    held_out_evaluation,
)
from jaxgen.tasks.task import Files, Saved, Task, tokenizer_of
from jaxgen.training.from_settings import first_state_of, optimizer_of, step_options
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.seeds import SeedLayout, backend_of_seeds
from jaxgen.training.step import make_train_step
from jaxgen.training.trainable import Objective, Sample, Trainable
from jaxgen.types import Array, Int, PyTree

CARD = """---
library_name: jaxgen
pipeline_tag: translation
tags: [jax, lstm]
---
# {name}

An LSTM encoder-decoder made with jaxgen ({parameters} parameters, {source_vocab_size} source and
{vocab_size} target tokens).

```python
import jaxgen

translator = jaxgen.load("path/to/this/directory")
print(translator.translate("your text", beam_size=4))
```
"""


def open_data(experiment: Seq2SeqExperiment) -> PairCorpus:
    """The pairs that the settings name."""
    return load_pairs(experiment.data)


def open_files(experiment: Seq2SeqExperiment, files: Sequence[Path]) -> PairCorpus:
    """All the pairs of some files, read as the settings say."""
    pairs = read_pairs(experiment.data, files)
    return PairCorpus(train=pairs, test=pairs)


def open_parallel(
    experiment: Seq2SeqExperiment, source_files: Sequence[Path], target_files: Sequence[Path]
) -> PairCorpus:
    """The pairs of source files and target files, read as the settings say."""
    pairs = read_pairs(experiment.data, source_files=source_files, target_files=target_files)
    return PairCorpus(train=pairs, test=pairs)


def fit_files(experiment: Seq2SeqExperiment, data: PairCorpus, pretrained: Saved | None) -> Files:
    """The tokenizers of both sides and the clusters of an adaptive output.

    Those of the training pairs, or for its own side those of the pretrained model.
    """
    config = experiment.tokenizer
    sides: dict[str, Sequence[str]] = {
        "encoder": data.train.sources,
        "decoder": data.train.targets,
    }
    if config.shared:
        both = [*data.train.sources, *data.train.targets]
        sides = dict.fromkeys(sides, both)
    fitted: dict[str, Tokenizer] = {}
    for side, texts in sides.items():
        if config.shared and fitted:
            fitted[side] = fitted["encoder"]
        elif pretrained is not None and experiment.model.pretrained_side == side:
            fitted[side] = _pretrained_tokenizer(experiment, pretrained, side)
        else:
            fitted[side] = build_tokenizer(
                config, texts, lowercase=experiment.data.lowercase, specials=(PAD, BOS, EOS)
            )
    names = {"source_tokenizer.json": "encoder", "tokenizer.json": "decoder"}
    files = {name: fitted[side].backend.to_str(pretty=True) + "\n" for name, side in names.items()}
    begun = pretrained if experiment.model.pretrained_side == "decoder" else None
    count_tokens = partial(_count_tokens, fitted["decoder"], data.train.targets)
    return files | fit_output(experiment.model, count_tokens, begun and begun.files)


def _count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Int[np.ndarray, " V"]:
    """How often each token is a target, <eos> at the end of each text included."""
    ids = np.concatenate(tokenizer.encode_many(texts)[0])
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    counts[tokenizer.eos_id] += len(texts)
    return counts


def _pretrained_tokenizer(experiment: Seq2SeqExperiment, pretrained: Saved, side: str) -> Tokenizer:
    """The tokenizer of the language model; UserError where the decoder cannot do with it."""
    tokenizer = tokenizer_of(pretrained.files)
    if side == "decoder" and tokenizer.eos_id is None:
        raise UserError(
            f"`model.pretrained` {experiment.model.pretrained} has a tokenizer without {EOS}, "
            "which targets end with; begin the encoder with it (`model.pretrained_side`), or train "
            "the language model on documents"
        )
    return tokenizer


@lru_cache(maxsize=4)
def _parsed(text: str) -> Tokenizer:
    return Tokenizer.from_text(text)


def source_tokenizer_of(files: Files) -> Tokenizer:
    """The tokenizer of the sources."""
    return _parsed(files["source_tokenizer.json"])


def _model_of(experiment: Seq2SeqExperiment, files: Files) -> Seq2Seq:
    return Seq2Seq(
        source_vocab_size=source_tokenizer_of(files).vocab_size,
        target_vocab_size=tokenizer_of(files).vocab_size,
        **module_settings(experiment.model, files),
    )


def init_params(model: Seq2Seq, key: Array) -> PyTree:
    """Fresh parameters, nested dicts of arrays."""
    tokens, lengths = jnp.zeros((1, 2), jnp.int32), jnp.ones((1,), jnp.int32)
    return jax.jit(model.init)(key, tokens, lengths, tokens)["params"]


def build(
    experiment: Seq2SeqExperiment,
    files: Files,
    data: PairCorpus,
    cache: Path,
    pretrained: Saved | None,
    *,
    seeds: SeedLayout | None = None,
) -> Trainable:
    """Everything that training needs, see `jaxgen.tasks.task.Build`."""
    config, model = experiment.training, _model_of(experiment, files)
    if seeds is not None:
        model = model.clone(backend=backend_of_seeds(model.backend))
    parts = {
        name: encode(experiment.data, source_tokenizer_of(files), tokenizer_of(files), part)
        for name in ("train", "validation", "test")
        if (part := getattr(data, name)) is not None
    }
    rows = parts["train"]
    batches = PairBatches(
        rows,
        config.batch_tokens,
        pair_shapes(rows, experiment.data.buckets),
        experiment.data.seed,
        block=config.accumulate_steps * config.steps_per_dispatch,
        accumulate_steps=config.accumulate_steps,
        devices=config.batch_size,
    )
    tx, rate = optimizer_of(experiment.optimizer, StepSchedule(batches, config))
    loss_fn = partial(seq2seq_loss, model, label_smoothing=config.label_smoothing)
    begun = {}
    if pretrained is not None:
        begun = language_model_part(pretrained.params, experiment.model.pretrained_side)

    return Trainable(
        init_state=first_state_of(partial(init_params, model), tx, config),
        train_step_on=lambda axis_name: make_train_step(
            loss_fn, tx, axis_name=axis_name, **step_options(config)
        ),
        batches=batches,
        initial_carry=(),
        rates={"learning_rate": jax.jit(rate)},
        figures=figures_of,
        objective=objective(experiment, files),
        evaluation=held_out_evaluation(model, parts.get("validation"), seeds),
        sample=None if seeds else _sampler(experiment, files, data.validation or data.train),
        digests={
            name: rows_digest(part.sources) + rows_digest(part.targets)
            for name, part in parts.items()
        },
        pretrained=begun,
    )


def objective(experiment: Seq2SeqExperiment, files: Files) -> Objective:
    """The figure that the settings name."""
    name = experiment.training.objective
    unit = "nats per token" if name == "nll" else ""
    return Objective(name, higher_is_better=name != "nll", unit=unit)


def _sampler(
    experiment: Seq2SeqExperiment, files: Files, pairs: Pairs
) -> Callable[[PyTree], list[Sample]] | None:
    """What shows a few held-out sources with what is made of them, and their targets."""
    count = experiment.translation.samples
    if not count:
        return None
    translator = load(experiment, files, {})
    sources, targets = pairs.sources[:count], pairs.targets[:count]

    def write(params: PyTree) -> list[Sample]:
        texts = replace(translator, params=params).translate(list(sources), beam_size=1)
        return [
            Sample(source, f"{text}   ({target})")
            for source, text, target in zip(sources, texts, targets, strict=True)
        ]

    return write


def load(experiment: Seq2SeqExperiment, files: Files, params: PyTree) -> Translator:
    """The trained model."""
    model = _model_of(experiment, files)
    return Translator(
        params=params,
        config=experiment,
        source_tokenizer=source_tokenizer_of(files),
        tokenizer=tokenizer_of(files),
        step_fn=step_fn_of(model),
        prefill_fn=prefill_fn_of(model),
        initial_carry=initial_carry_of(model),
        max_source_length=experiment.data.source_length,
        attention_fn=None if model.attention == "none" else partial(attention_of, model),
    )


def init_shapes(experiment: Seq2SeqExperiment, files: Files) -> PyTree:
    """Shapes and types of the parameters."""
    return jax.eval_shape(partial(init_params, _model_of(experiment, files)), jax.random.key(0))


def recurrence(experiment: Seq2SeqExperiment) -> tuple[str, RecurrenceSpec]:
    """The backend asked for, and the recurrence of the encoder over the longest sources."""
    model, config = experiment.model, experiment.training
    length = experiment.data.source_length
    spec = RecurrenceSpec(
        T=length,
        B=max(config.batch_size, config.batch_tokens // (2 * length)),
        H=model.encoder_size or model.hidden_size,
        dtype=model.dtype,
    )
    return model.backend, spec


def facts(experiment: Seq2SeqExperiment, files: Files) -> dict[str, Any]:
    """The vocabularies, and an output layer that is not full."""
    known = {
        "tokenizer": tokenizer_of(files).kind,
        "source_vocab_size": source_tokenizer_of(files).vocab_size,
        "vocab_size": tokenizer_of(files).vocab_size,
    }
    return known | output_facts(files)


SEQ2SEQ = Task(
    open_data=open_data,
    fit_files=fit_files,
    build=build,
    load=load,
    init_shapes=init_shapes,
    evaluate=evaluate,
    facts=facts,
    objective=objective,
    command="translate",
    ensemble=ensemble_translator,
    open_files=open_files,
    open_parallel=open_parallel,
    begins_from=("language_model",),
    evaluate_options=EVALUATE_OPTIONS,
    show=translation_tables,
    recurrence=recurrence,
    card=CARD,
)
