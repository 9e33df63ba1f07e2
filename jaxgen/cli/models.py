"""`jaxgen evaluate`, `info` and `export`: measure, describe and export a trained model."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import DisallowNone, Positional, arg

from jaxgen.cli.backend import Shapes, backend_facts
from jaxgen.cli.cache import Cache
from jaxgen.cli.environment import environment_facts
from jaxgen.cli.options import Checkpoint, Flag, RunArgument, print_facts, said
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on held-out text."""

    run: RunArgument
    """Run directory or export."""
    split: Annotated[Literal["test", "validation", "train"] | None, DisallowNone, said] = None
    """Part of its corpus (default: test, or validation where there is no test part)."""
    protocol: Annotated[Literal["exact", "windows"] | None, DisallowNone, said] = None
    """Of a language model: exact (default), every token, the carry flowing on; or windows, the
    Keras recipe's: windows of 60 from a zero carry, every third, only the token after each
    counts."""
    cached: Annotated[Cache, arg(name="")] = field(default_factory=Cache)
    dynamic: Flag = False
    """Of a language model: also let the parameters follow the text, each stretch of which is
    predicted before it is learnt from. The run itself stays as it is."""
    dynamic_rate: Annotated[float | None, DisallowNone, said] = None
    """With --dynamic: the learning rate (default: the best on the validation text)."""
    dynamic_rule: Annotated[Literal["sgd", "rms"] | None, DisallowNone, said] = None
    """With --dynamic: sgd (default), gradient descent; or rms, each parameter by the size of its
    gradients on the training text, and drawn back to where it began."""
    threshold: Annotated[float | None, DisallowNone, said] = None
    """Of a classifier: probability from which the second of two classes, or each of several labels,
    is predicted (default: `prediction.threshold` of the run)."""
    temperature: Annotated[float | None, DisallowNone, said] = None
    """Of a classifier: divides the logits (default: `prediction.temperature` of the run). With
    --control: of the samples (default: 1)."""
    baselines: Flag = False
    """Of a classifier: beside it, how good are the likeliest class, and TF-IDF with logistic
    regression. Of an encoder-decoder: with other files too, copies of the nearest training pair."""
    beam_size: Annotated[int | None, DisallowNone, said] = None
    """Of an encoder-decoder: width of the search; 1 takes the likeliest token at each step
    (default: `translation.beam_size` of the run)."""
    bleu_tokenize: Annotated[
        Literal["13a", "none", "intl", "char", "zh"] | None, DisallowNone, said
    ] = None
    """Of an encoder-decoder: how sacreBLEU divides texts into words; none for texts that are
    tokenised already (default: 13a, or none for a model of words)."""
    plots: Annotated[Path | None, DisallowNone, arg(metavar="DIR", help_behavior_hint="")] = None
    """Of a classifier: write confusion.png, roc.png and calibration.png into this directory."""
    control: Annotated[Path | None, DisallowNone, arg(metavar="RUN", help_behavior_hint="")] = None
    """Of a labelled language model: how well its texts keep to their labels, judged by this
    classifier, which was trained on other texts; needs --judge."""
    judge: Annotated[Path | None, DisallowNone, arg(metavar="RUN", help_behavior_hint="")] = None
    """With --control: the language model, trained on yet other texts, that gives perplexities."""
    curve: Annotated[Path | None, DisallowNone, arg(metavar="PNG", help_behavior_hint="")] = None
    """With --control: draw accuracy and perplexity over the strength into this file. Of a text GAN:
    draw quality and diversity over the temperature."""
    samples: Annotated[int | None, DisallowNone, said] = None
    """With --control: texts written of each label at each strength (default: 1000). Of a text GAN:
    samples of each row (default: as many as training texts, at most 10000)."""
    temperatures: Annotated[tuple[float, ...], said] = ()
    """Of a text GAN: temperatures of maximum likelihood to compare with (default: 0.6 0.7 0.8 0.9
    1 1.1)."""
    skip_judges: Flag = False
    """Of a text GAN: leave out fed, lm and rlm, for which small language models are trained."""
    strengths: Annotated[tuple[float, ...], said] = ()
    """With --control: strengths of guidance; 0 (no label) and 1 (plain conditioning) are always
    among them (default: 0 1 2 3)."""
    top_p: Annotated[float | None, DisallowNone, said] = None
    """With --control: of the samples (default: 1)."""
    seed: Annotated[int | None, DisallowNone, said] = None
    """With --control, or of a text GAN: of the samples (default: 0)."""
    files: Annotated[tuple[Path, ...], said] = ()
    """Measure on these files instead."""
    source_files: Annotated[tuple[Path, ...], said] = ()
    """Of an encoder-decoder: measure on these texts instead, a source in each line..."""
    target_files: Annotated[tuple[Path, ...], said] = ()
    """...and on as many with the targets of these lines."""
    ensemble: Flag = False
    """RUN is a directory of seeds: measure all its runs as one model, whose probabilities are the
    mean of theirs."""
    checkpoint: Checkpoint = None
    """Which parameters of a run (default: the best, or the last where none was evaluated)."""
    json: Flag = False
    """Print one JSON object."""

    def __call__(self) -> None:
        """Measure and print."""
        from jaxgen.experiment import evaluate
        from jaxgen.saved import settings_of
        from jaxgen.tasks import task_of
        from jaxgen.training.parallel import request_host_devices

        self.cached.check()
        request_host_devices()
        names = (
            *("dynamic_rate", "dynamic_rule"),
            *("protocol", "threshold", "temperature", "plots", "control", "judge", "curve"),
            *("samples", "strengths", "top_p", "seed", "temperatures"),
            *("beam_size", "bleu_tokenize"),
        )
        options = {name: getattr(self, name) for name in names}
        options = {name: value for name, value in options.items() if value not in (None, ())}
        options |= self.cached.options()
        for name in ("baselines", "skip_judges", "dynamic"):
            if getattr(self, name):
                options[name] = True
        figures = evaluate(
            self.run,
            split=self.split,
            files=self.files,
            source_files=self.source_files,
            target_files=self.target_files,
            which=self.checkpoint,
            ensemble=self.ensemble,
            **options,
        )
        show = task_of(settings_of(self.run)).show
        shown = None if show is None or self.json else show(figures)
        if shown is None:
            print_facts(figures, as_json=self.json)
        else:
            print(shown)


@dataclass(frozen=True)
class Info:
    """Say what a run or an export is, and how far and how good it got."""

    run: Positional[Annotated[Path | None, arg(metavar="[RUN]", help_behavior_hint="")]] = None
    """Run directory or export (with --backend it may be left out, with --environment it is)."""
    json: Flag = False
    """Print one JSON object."""
    backend: Flag = False
    """Say instead which backend runs the recurrence on this machine, and why."""
    environment: Flag = False
    """Say instead which versions and devices are here, and what is known to be wrong with them."""
    shapes: Annotated[Shapes, arg(name="")] = field(default_factory=Shapes)

    def __call__(self) -> None:
        """Describe and print."""
        if self.environment:
            if self.run is not None or self.backend or self.shapes != Shapes():
                raise UserError(
                    "`info --environment` is of this machine; leave RUN, --backend and shapes out"
                )
            print_facts(environment_facts(), as_json=self.json)
            return
        if self.backend:
            print_facts(backend_facts(self.run, self.shapes), as_json=self.json)
            return
        if self.run is None:
            raise UserError(
                "`info` needs a run directory or an export; name one, or use --backend or "
                "--environment"
            )
        if self.shapes != Shapes():
            raise UserError("shapes are for `info --backend`; add --backend, or leave them out")
        from jaxgen.experiment import describe

        print_facts(describe(self.run), as_json=self.json)


@dataclass(frozen=True)
class Export:
    """Write a model as model.safetensors, config.json and tokenizer.json."""

    run: RunArgument
    """Run directory."""
    directory: Positional[Annotated[Path, arg(metavar="DIR", help_behavior_hint="")]]
    """Where to; made if missing."""
    checkpoint: Checkpoint = None
    """Which parameters (default: the best, or the last where none was evaluated)."""
    push_to_hub: Annotated[str | None, arg(metavar="USER/NAME", help_behavior_hint="")] = None
    """Also upload to this repository of the Hugging Face hub (a new one is private)."""
    force: Flag = False
    """Replace an export that is there already."""

    def __call__(self) -> None:
        """Export."""
        from jaxgen.experiment import export

        export(self.run, self.directory, which=self.checkpoint, overwrite=self.force)
        print(f"exported to {self.directory}", file=sys.stderr)
        if self.push_to_hub:
            from jaxgen.exports import push_to_hub

            print(push_to_hub(self.directory, self.push_to_hub))
