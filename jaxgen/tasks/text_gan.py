"""The task of text GANs: short texts to a generator that is trained against a discriminator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import AdversarialConfig, TextGanExperiment
from jaxgen.data.buckets import BucketedRows, LabelDropout
from jaxgen.data.ragged import rows_digest
from jaxgen.data.short_texts import PARTS
from jaxgen.errors import UserError
from jaxgen.generation.text import TextModel
from jaxgen.models.gan_estimators import TextGan
from jaxgen.models.gan_steps import (
    dense_loss,
    discriminator_step_loss,
    gumbel_loss,
    mle_loss,
    next_extra,
    rollout_loss,
)
from jaxgen.ops.backends import RecurrenceSpec
from jaxgen.tasks.labelled import LabelledRows, evaluation_by_length
from jaxgen.tasks.task import Files, Saved, Task, tokenizer_of
from jaxgen.tasks.text_gan_data import (
    GanCorpus,
    fit_files,
    labels_of,
    open_data,
    open_files,
    rows_of,
    text_length,
)
from jaxgen.tasks.text_gan_evaluation import EVALUATE_OPTIONS, evaluate, show
from jaxgen.tasks.text_gan_model import GanTextModel, build_gan, init_params, text_model
from jaxgen.tasks.text_gan_quality import Quality, held_out_nll, objective
from jaxgen.training.adversarial_step import (
    Phase,
    init_adversarial_state,
    make_adversarial_step,
)
from jaxgen.training.from_settings import optimizer_of
from jaxgen.training.optimizers import Schedule
from jaxgen.training.phases import PhasedBatch, PhasedBatches, PhaseOrder
from jaxgen.training.seeds import SeedLayout
from jaxgen.training.step import Metrics, TrainState, TrainStep
from jaxgen.training.trainable import Evaluation, Sample, Trainable
from jaxgen.types import Array, PyTree, Sum

MLE, DISCRIMINATOR, GENERATOR = range(3)
"""The phases of the steps."""
LOSSES = ("discriminator_loss", "generator_loss")

CARD = """---
library_name: jaxgen
pipeline_tag: text-generation
tags: [jax, lstm, gan]
---
# {name}

The LSTM generator of a text GAN made with jaxgen ({vocab_size} tokens, texts of at most
{max_length}), with its discriminator and the generator that maximum likelihood alone gave.

```python
import jaxgen

generator = jaxgen.load("path/to/this/directory")
print(generator.generate("", n=5, temperature=1.0, key=0))
```
"""


class PhaseSteps(NamedTuple):
    """The steps over which the learning rate of a phase takes its course."""

    total: int
    epoch_steps: int


@dataclass(frozen=True)
class GanBatches(PhasedBatches):
    """Batches of a training that ends with its last phase, not after some epochs."""

    total_steps: int = 0


def build(
    experiment: TextGanExperiment,
    files: Files,
    data: GanCorpus,
    cache: Path,
    pretrained: Saved | None,
    *,
    seeds: SeedLayout | None = None,
) -> Trainable:
    """Everything that training needs, see `jaxgen.tasks.task.Build`."""
    gan = build_gan(experiment, files, seeds)
    parts = {
        name: rows_of(experiment, tokenizer_of(files), labels_of(files), part)
        for name in PARTS
        if (part := getattr(data, name)) is not None
    }
    batches = _batches(experiment, gan, parts["train"])
    phases, rates = _phases(experiment, gan, batches)
    quality = None
    if "validation" in parts:
        quality = Quality.of(experiment, gan, parts["train"], parts["validation"], data.oracle)
    return Trainable(
        init_state=partial(_first_state, gan, phases),
        train_step_on=lambda axis_name: counted(
            make_adversarial_step(phases, axis_name=axis_name), axis_name
        ),
        batches=batches,
        initial_carry=(),
        rates=rates,
        figures=figures_of,
        objective=objective(experiment, files),
        evaluation=_evaluation(gan, parts.get("validation"), quality, seeds),
        sample=None if seeds else _sampler(experiment, files),
        digests={name: rows_digest(*part) for name, part in parts.items()},
        alarm=None if quality is None else quality.alarm,
        plotted=LOSSES,
    )


def _batches(experiment: TextGanExperiment, gan: TextGan, train: LabelledRows) -> GanBatches:
    """Training texts in random order, each batch with the phase of its step."""
    config, adversarial = experiment.training, experiment.adversarial
    if len(train.rows) < config.batch_size:
        raise UserError(
            f"`training.batch_size` must be at most the {len(train.rows)} training texts, got "
            f"{config.batch_size}; lower it, or give more text"
        )
    dropout = None
    if gan.generator.num_labels:
        dropout = LabelDropout(config.label_dropout, null=gan.generator.num_labels - 1)
    length = text_length(experiment) + 1  # what a text starts from is in its row
    source = BucketedRows(
        *train, config.batch_size, [length], experiment.data.seed, label_dropout=dropout
    )
    first = [(MLE, round(config.epochs * source.batches_per_epoch))]
    cycle = (DISCRIMINATOR,) * adversarial.discriminator_steps + (GENERATOR,)
    if adversarial.steps:
        first.append((DISCRIMINATOR, adversarial.discriminator_pretrain_steps))
    order = PhaseOrder(tuple(first), cycle)
    return GanBatches(source, order, order.first_steps + adversarial.steps * len(cycle))


def _phases(
    experiment: TextGanExperiment, gan: TextGan, batches: GanBatches
) -> tuple[list[Phase], dict[str, Schedule]]:
    """What each phase does, and the rates of the step of a number."""
    adversarial, order = experiment.adversarial, batches.order
    mle_steps, each = order.first[0][1], adversarial.discriminator_steps
    before = order.first_steps - mle_steps
    totals = (mle_steps, before + adversarial.steps * each, adversarial.steps)
    configs = (
        experiment.optimizer,
        experiment.discriminator_optimizer,
        experiment.generator_optimizer,
    )
    optimizers = [
        optimizer_of(config, PhaseSteps(max(total, 1), batches.batches_per_epoch))
        for config, total in zip(configs, totals, strict=True)
    ]
    txs, schedules = zip(*optimizers, strict=True)
    heat = partial(gumbel_temperature, adversarial, order)

    every = order.of_steps(np.arange(batches.total_steps))
    steps_of = [np.flatnonzero(every == phase) for phase in range(3)]

    def rate(phase: int, step: int) -> float:
        return float(schedules[phase](int(np.searchsorted(steps_of[phase], step))))

    names = ("learning_rate", "discriminator_learning_rate", "generator_learning_rate")
    rates: dict[str, Schedule] = {name: partial(rate, phase) for phase, name in enumerate(names)}
    if adversarial.estimator == "gumbel":
        rates["temperature"] = heat
    part = "mle" if adversarial.from_scratch else "generator"
    loss = partial(discriminator_step_loss, gan, loss=adversarial.loss)
    return [
        Phase(
            part,
            partial(mle_loss, gan, part=part),
            txs[MLE],
            "mle",
            copy_to=None if adversarial.from_scratch else "mle",
        ),
        Phase("discriminator", loss, txs[DISCRIMINATOR], "discriminator"),
        _generator_phase(adversarial, gan, txs[GENERATOR], heat),
    ], rates


def _generator_phase(
    config: AdversarialConfig, gan: TextGan, tx: Any, temperature: Callable[[Any], Any]
) -> Phase:
    own, bonus = config.own, config.entropy_bonus
    if config.estimator == "gumbel":
        loss = partial(
            gumbel_loss, gan, loss=config.loss, temperature=temperature, entropy_bonus=bonus
        )
        return Phase("generator", loss, tx, "generator")
    if config.estimator == "rollouts":
        loss = partial(rollout_loss, gan, rollouts=own["rollouts"], entropy_bonus=bonus)
    else:
        loss = partial(dense_loss, gan, discount=own["discount"], entropy_bonus=bonus)
    moved = partial(next_extra, decay=own["baseline_decay"])
    return Phase("generator", loss, tx, "generator", next_extra=moved)


def gumbel_temperature(config: AdversarialConfig, order: PhaseOrder, step: Any) -> Any:
    """Temperature of the Gumbel-softmax at a step: its logarithm is linear in the steps.

    Args:
        config: where it begins and ends.
        order: says which steps are the generator's.
        step: of the whole training.
    """
    start, end = config.own["temperature_start"], config.own["temperature_end"]
    steps = max(config.steps * len(order.cycle), 1)
    share = jnp.clip((jnp.float32(step) - order.first_steps) / steps, 0.0, 1.0)
    return start * (end / start) ** share


def _first_state(gan: TextGan, phases: list[Phase], key: Array) -> TrainState:
    params = init_params(gan, jax.random.fold_in(key, 0))
    extra = {"baseline": jnp.float32(0)}
    return init_adversarial_state(params, phases, jax.random.fold_in(key, 1), extra)


def counted(train_step: TrainStep, axis_name: str | None) -> TrainStep:
    """A step that also counts the generator's adversarial steps, and reports its texts.

    What a phase counts to weight its gradient is tokens in some and texts in others.
    """

    def step(state: TrainState, batch: PhasedBatch) -> tuple[TrainState, Metrics]:
        new, metrics = train_step(state, batch)
        made = (batch.phase[0] == GENERATOR) & new.finite
        steps = new.params["adversarial_steps"] + made.astype(jnp.int32)
        texts = batch.batch.weights.sum()
        if axis_name is not None:
            texts = jax.lax.psum(texts, axis_name)
        params = new.params | {"adversarial_steps": steps}
        return new._replace(params=params), metrics._replace(weight=texts)

    return step


def figures_of(sums: Mapping[str, Sum]) -> dict[str, float]:
    """The mean of each sum that a step of these had."""
    return {name: float(s.total / s.weight) for name, s in sums.items() if s.weight > 0}


def _evaluation(
    gan: TextGan,
    held_out: LabelledRows | None,
    quality: Quality | None,
    seeds: SeedLayout | None,
) -> Evaluation | None:
    found = evaluation_by_length(partial(held_out_nll, gan), held_out, seeds)
    return None if found is None else found._replace(generated=quality)


def _sampler(
    experiment: TextGanExperiment, files: Files
) -> Callable[[PyTree], list[Sample]] | None:
    """What shows a few of the generator's texts."""
    count = experiment.samples.shown
    if not count:
        return None
    lm, length = text_model(experiment, files, {}), text_length(experiment)

    def write(params: PyTree) -> list[Sample]:
        texts = replace(lm, params=params["generator"]).generate(
            "",
            n=count,
            temperature=1.0,
            top_p=1.0,
            max_new_tokens=length,
            key=experiment.training.seed,
        )
        return [Sample(f"sample {number}", text) for number, text in enumerate(texts, 1)]

    return write


def load(experiment: TextGanExperiment, files: Files, params: PyTree) -> TextModel:
    """The trained generator."""
    return text_model(experiment, files, params)


def init_shapes(experiment: TextGanExperiment, files: Files) -> PyTree:
    """Shapes and types of the parameters."""
    return jax.eval_shape(partial(init_params, build_gan(experiment, files)), jax.random.key(0))


def facts(experiment: TextGanExperiment, files: Files) -> dict[str, Any]:
    """The sizes of both models and of the vocabulary."""
    shapes, tokenizer = init_shapes(experiment, files), tokenizer_of(files)
    sizes = {
        part: sum(leaf.size for leaf in jax.tree.leaves(shapes[part]))
        for part in ("generator", "discriminator")
    }
    names = labels_of(files)
    return {
        **{f"{part}_parameters": size for part, size in sizes.items()},
        **({"labels": ", ".join(names)} if names else {}),
        "max_length": experiment.data.max_length,
        "tokenizer": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
    }


def training_tokens(lm: GanTextModel) -> np.ndarray:
    """Ids of the texts that a model was trained on, each with its ends.

    Raises:
        UserError: The corpus is not there any more.
    """
    train = open_data(lm.config).train
    return rows_of(lm.config, lm.tokenizer, lm.labels, train).rows.ids


def recurrence(experiment: TextGanExperiment) -> tuple[str, RecurrenceSpec]:
    """That jaxgen chooses the backend, and the recurrence of the generator's step."""
    spec = RecurrenceSpec(
        T=text_length(experiment),
        B=experiment.training.batch_size,
        H=experiment.model.hidden_size,
        dtype="float32",
        conditioned=bool(experiment.model.noise_size),
    )
    return "auto", spec


TEXT_GAN = Task(
    open_data=open_data,
    fit_files=fit_files,
    build=build,
    load=load,
    init_shapes=init_shapes,
    evaluate=evaluate,
    facts=facts,
    objective=objective,
    command="generate",
    open_files=open_files,
    evaluate_runs=evaluate,
    evaluate_options=EVALUATE_OPTIONS,
    training_tokens=training_tokens,
    recurrence=recurrence,
    card=CARD,
    show=show,
)
