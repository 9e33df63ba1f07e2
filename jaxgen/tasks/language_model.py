"""The language model's task: text to tokens, tokens to windows, windows to a trained model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.config import Experiment, LanguageModelExperiment
from jaxgen.data.corpora import Corpus, fit_tokenizer, load_corpus
from jaxgen.data.streams import TokenArray, Tokens, TokenStream, evaluation_batches
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.data.tokens import TokenSplits, encode_corpus, token_counts
from jaxgen.errors import UserError
from jaxgen.evaluation.perplexity import Nll, bits, perplexity
from jaxgen.evaluation.sums import make_sums
from jaxgen.evaluation.windows import window_nll
from jaxgen.generation.constrained_text import constrained_model
from jaxgen.generation.joined import JoinedStep, ensemble_model
from jaxgen.generation.text import TextModel
from jaxgen.generation.utf8 import utf8_automaton
from jaxgen.models.decoding import LanguageModelStep, initial_carry_of, step_fn_of
from jaxgen.models.language_model import LanguageModel, language_model_loss, prefill_fn_of
from jaxgen.ops.backends import RecurrenceSpec
from jaxgen.ops.sampled_loss import Candidates
from jaxgen.tasks.adapted import ADAPTED_OPTIONS, adapted_figures, check_adapted, reader_of
from jaxgen.tasks.joined_evaluation import step_loss
from jaxgen.tasks.output_layer import fit_output, module_settings, output_facts
from jaxgen.tasks.task import Files, Saved, Task, tokenizer_of
from jaxgen.tasks.texts import EVALUATION_ROWS, count_tokens, encode_text, reset_id_of, unit_of
from jaxgen.training.from_settings import first_state_of, optimizer_of, step_options
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.seeds import SeedLayout, backend_of_seeds, over_seeds
from jaxgen.training.step import make_train_step
from jaxgen.training.trainable import Evaluation, Objective, Sample, Trainable
from jaxgen.types import Array, PyTree, Sum

"""Parts of a text that are evaluated side by side; each starts from a zero carry."""
SAMPLE_PROMPT = 40
"""Tokens of held-out text that samples continue where the settings name no prompt."""

CARD = """---
library_name: jaxgen
pipeline_tag: text-generation
tags: [jax, lstm]
---
# {name}

An LSTM language model made with jaxgen ({parameters} parameters, {vocab_size} tokens).

```python
import jaxgen

lm = jaxgen.load("path/to/this/directory")
print(lm.generate("", max_new_tokens=400, temperature=0.7, key=0))
```
"""


def build(
    experiment: LanguageModelExperiment,
    files: Files,
    data: Corpus,
    cache: Path,
    pretrained: Saved | None,
    *,
    seeds: SeedLayout | None = None,
) -> Trainable:
    """Everything that training needs, see `jaxgen.tasks.task.Build`."""
    config = experiment.training
    tokenizer = tokenizer_of(files)
    splits = encode_corpus(data, tokenizer, cache)
    model = build_model(experiment, files)
    if seeds is not None:
        model = model.clone(backend=backend_of_seeds(model.backend))
    batches = TokenStream(
        splits.train,
        config.batch_size,
        config.sequence_length,
        reset_id=reset_id_of(experiment, tokenizer),
        seed=experiment.data.seed,
    )
    tx, rate = optimizer_of(experiment.optimizer, StepSchedule(batches, config))
    initial_carry = model.initial_carry(config.batch_size)
    loss_fn = partial(
        language_model_loss,
        model,
        activation_penalty=config.activation_penalty,
        temporal_penalty=config.temporal_penalty,
        candidates=_candidates(experiment, splits, tokenizer.vocab_size),
    )

    return Trainable(
        init_state=first_state_of(partial(init_params, model), tx, config, initial_carry),
        train_step_on=lambda axis_name: make_train_step(
            loss_fn, tx, axis_name=axis_name, **step_options(config)
        ),
        batches=batches,
        initial_carry=initial_carry,
        rates={"learning_rate": jax.jit(rate)},
        figures=partial(figures_of, unit=unit_of(tokenizer)),
        objective=objective(experiment, files),
        evaluation=_evaluation(experiment, model, tokenizer, splits, seeds),
        sample=None if seeds else _sampler(experiment, model, tokenizer, splits),
        digests=splits.digests,
    )


def build_model(experiment: LanguageModelExperiment, files: Files) -> LanguageModel:
    """The Flax module that the settings describe."""
    vocab_size = tokenizer_of(files).vocab_size
    return LanguageModel(vocab_size=vocab_size, **module_settings(experiment.model, files))


def init_params(model: LanguageModel, key: Array) -> PyTree:
    """Fresh parameters, nested dicts of arrays."""
    return jax.jit(model.init)(key, jnp.zeros((1, 1), jnp.int32))["params"]


def _candidates(
    experiment: LanguageModelExperiment, splits: TokenSplits, vocab_size: int
) -> Candidates | None:
    """What the sampled loss draws from; UserError where there is nothing to save."""
    config = experiment.training
    if config.loss == "full":
        return None
    if experiment.model.output != "full":
        raise UserError(
            "`training.loss` sampled is for a full softmax, and `model.output` is "
            f"{experiment.model.output}, whose loss is cheap by itself; leave one of them out"
        )
    if config.sampled_tokens >= vocab_size:
        raise UserError(
            f"`training.sampled_tokens` must be below the {vocab_size} tokens of the vocabulary, "
            f"got {config.sampled_tokens}; lower it, or set `training.loss` to full"
        )
    return Candidates.by_frequency(token_counts(splits.train, vocab_size), config.sampled_tokens)


def figures_of(sums: Mapping[str, Sum], unit: str) -> dict[str, float]:
    """Nats per token, and the same in the model's unit; of the sampled loss nats alone."""
    if "sampled_nll" in sums:
        total, weight = sums["sampled_nll"]
        return {"sampled_nll": float(total) / max(float(weight), 1.0)}
    nll = float(sums["nll"].total) / max(float(sums["nll"].weight), 1.0)
    return {"nll": nll, unit: (bits if unit == "bpc" else perplexity)(nll)}


def objective(experiment: Experiment, files: Files) -> Objective:
    """The lowest nll."""
    unit = unit_of(tokenizer_of(files))
    return Objective(
        "nll", shown=(unit, bits if unit == "bpc" else perplexity), unit="nats per token"
    )


def _evaluation(
    experiment: LanguageModelExperiment,
    model: LanguageModel,
    tokenizer: Tokenizer,
    splits: TokenSplits,
    seeds: SeedLayout | None,
) -> Evaluation | None:
    """The exact nll of the validation text."""
    held_out = splits.validation
    if held_out is None:
        return None
    # The backend that training insists on may know no masks, or not be here.
    model = model if seeds else model.clone(backend="auto")
    sums = make_sums(
        partial(language_model_loss, model),
        over_runs=None if seeds is None else partial(over_seeds, layout=seeds),
    )
    carry = model.initial_carry(EVALUATION_ROWS)
    length, reset_id = experiment.training.sequence_length, reset_id_of(experiment, tokenizer)

    def measure(tokens: Tokens, params: PyTree) -> dict[str, Sum]:
        start = carry if seeds is None else seeds.place_carry(carry)
        batches = evaluation_batches(tokens, EVALUATION_ROWS, length, reset_id=reset_id)
        return sums(params, start, batches)

    few = TokenArray(held_out.read(0, 2))
    return Evaluation(partial(measure, few), partial(measure, held_out))


def _sampler(
    experiment: LanguageModelExperiment,
    model: LanguageModel,
    tokenizer: Tokenizer,
    splits: TokenSplits,
) -> Callable[[PyTree], list[Sample]] | None:
    """What writes the samples that an evaluation shows: one text a temperature."""
    settings = experiment.samples
    temperatures = settings.temperatures
    if not temperatures:
        return None
    prompt = settings.prompt
    if prompt is None:
        source = splits.validation or splits.train
        prompt = tokenizer.decode(source.read(0, min(SAMPLE_PROMPT, len(source))))
    lm = text_model(experiment, model, tokenizer, {})

    def write(params: PyTree) -> list[Sample]:
        texts = replace(lm, params=params).generate(
            [prompt] * len(temperatures),
            max_new_tokens=settings.max_new_tokens,
            temperature=list(temperatures),
            key=experiment.training.seed,
        )
        pairs = zip(temperatures, texts, strict=True)
        return [Sample(f"temperature {t:g}", prompt + text) for t, text in pairs]

    return write


def load(experiment: LanguageModelExperiment, files: Files, params: PyTree) -> TextModel:
    """The trained model."""
    return text_model(experiment, build_model(experiment, files), tokenizer_of(files), params)


def text_model(
    experiment: Experiment, model: LanguageModel, tokenizer: Tokenizer, params: PyTree
) -> TextModel:
    """A language model with strings in and out; one of bytes writes whole characters only."""
    lm = TextModel(
        params=params,
        config=experiment,
        tokenizer=tokenizer,
        step_fn=step_fn_of(model),
        prefill_fn=prefill_fn_of(model),
        initial_carry=initial_carry_of(model),
        num_labels=model.num_labels,
    )
    if tokenizer.kind != "byte":
        return lm
    return constrained_model(lm, utf8_automaton(tokenizer.vocab_size))


def module_of(lm: TextModel) -> LanguageModel:
    """The Flax module of a model that is not joined of several."""
    assert isinstance(lm.step_fn, LanguageModelStep)
    # The backend that training insists on may know no masks, or not be here.
    return lm.step_fn.model.clone(backend="auto")


def init_shapes(experiment: LanguageModelExperiment, files: Files) -> PyTree:
    """Shapes and types of the parameters."""
    return jax.eval_shape(partial(init_params, build_model(experiment, files)), jax.random.key(0))


def evaluate(lm: TextModel, data: Corpus, options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a model on a part of a corpus.

    Args:
        lm: From `load`.
        data: The corpus.
        options: `split`, the part; and `protocol`: "exact" counts every token but the first once,
            with the carry flowing on; "windows" is the Keras recipe's: windows of 60, every third,
            each read from a zero carry, and only the token after it counts. `cache`, a number of
            tokens to remember, with `cache_theta` and `cache_lambda`; `dynamic` evaluation, with
            `dynamic_rate` and `dynamic_rule` ("sgd" or "rms"). Settings that are not given are
            chosen on the validation text.

    Returns:
        `tokens` counted, `nll` in nats per token, `perplexity`, and `bpc` in bits per token where
        tokens are characters or bytes; beside them `cache` and `dynamic`, with what was chosen and
        the same figures.
    """
    tokenizer, protocol = lm.tokenizer, options.get("protocol", "exact")
    if protocol not in ("exact", "windows"):
        raise UserError(f"`protocol` must be exact or windows, got {protocol!r}")
    joined = isinstance(lm.step_fn, JoinedStep)
    if protocol == "windows" and joined:
        raise UserError("`protocol` windows measures one model; use exact, or leave `ensemble` out")
    check_adapted(options, plain=protocol == "exact" and not joined)
    source = getattr(data, options["split"])
    reader, tokens = reader_of(lm), TokenArray(encode_text(source, tokenizer, warn=True))
    if protocol == "windows":
        nll = _window_nll(module_of(lm), lm.params, tokens)
    else:
        loss_fn = partial(step_loss, lm) if joined else partial(language_model_loss, module_of(lm))
        carry = lm.initial_carry(lm.params, EVALUATION_ROWS, None)
        batches = reader.batches(tokens, EVALUATION_ROWS)
        found = make_sums(loss_fn)(lm.params, carry, batches)["nll"]
        nll = Nll(float(found.total), round(float(found.weight)))
    figures = {"tokens": nll.count, **reader.figures(nll.mean)}
    adapted = adapted_figures(reader, tokens, options)
    return {"text": source.name, "protocol": protocol, **figures, **adapted}


def training_tokens(lm: TextModel) -> np.ndarray:
    """Ids of the text that a model was trained on, for `evaluation.memorisation`.

    Raises:
        UserError: The corpus is not there any more.
    """
    return encode_text(load_corpus(lm.config.data).train, lm.tokenizer, warn=False)


def _window_nll(model: LanguageModel, params: PyTree, tokens: Tokens) -> Nll:
    def last_logits(model: LanguageModel, windows: Array) -> Array:
        carry = model.initial_carry(windows.shape[0])
        _, hidden = model.hidden_states(windows.T, carry)
        return model.logits(hidden[-1])

    apply = jax.jit(nn.apply(last_logits, model))
    return window_nll(
        lambda windows: apply({"params": params}, windows), tokens.read(0, len(tokens))
    )


def recurrence(experiment: LanguageModelExperiment) -> tuple[str, RecurrenceSpec]:
    """The backend asked for, and the recurrence of a training step."""
    model, training = experiment.model, experiment.training
    spec = RecurrenceSpec(
        T=training.sequence_length,
        B=training.batch_size,
        H=model.hidden_size,
        dtype=model.dtype,
        resets=experiment.data.reset_documents,
        cell=model.cell,
    )
    return model.backend, spec


def facts(experiment: LanguageModelExperiment, files: Files) -> dict[str, Any]:
    """Kind and size of the vocabulary, and an output layer that is not full."""
    tokenizer = tokenizer_of(files)
    known = {"tokenizer": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
    return known | output_facts(files)


def open_data(experiment: LanguageModelExperiment) -> Corpus:
    """The corpus that the settings name."""
    return load_corpus(experiment.data)


def open_files(experiment: LanguageModelExperiment, files: Sequence[Path]) -> Corpus:
    """All the text of some files, read as the settings say."""
    other = {"dataset": None, "subset": None, "validation_files": (), "test_files": ()}
    whole = {"validation_fraction": 0.0, "test_fraction": 0.0}
    corpus = load_corpus(
        experiment.data.model_copy(update={"files": tuple(files), **other, **whole})
    )
    return replace(corpus, test=corpus.train)


def fit_files(experiment: LanguageModelExperiment, data: Corpus, pretrained: Saved | None) -> Files:
    """The tokenizer of the training text, and the clusters of an adaptive output."""
    tokenizer = fit_tokenizer(experiment.tokenizer, data)
    return {
        "tokenizer.json": tokenizer.backend.to_str(pretty=True) + "\n",
        **fit_output(experiment.model, lambda: count_tokens(data.train, tokenizer)),
    }


LANGUAGE_MODEL = Task(
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
    evaluate_options=("protocol", *ADAPTED_OPTIONS),
    training_tokens=training_tokens,
    recurrence=recurrence,
    card=CARD,
)
