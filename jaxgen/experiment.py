"""Runs from settings, and models from runs: `train`, `load`, `evaluate`, `describe`, `export`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.config import Experiment
from jaxgen.config_files import parse_toml, read_toml, to_toml
from jaxgen.data.corpora import fit_tokenizer, load_corpus
from jaxgen.data.tokenizers import Tokenizer, warn_unknown
from jaxgen.data.tokens import TokenArray, Tokens, encode_corpus, encode_source
from jaxgen.directories import kind_of
from jaxgen.errors import UserError
from jaxgen.evaluation.perplexity import Nll
from jaxgen.evaluation.windows import window_nll
from jaxgen.exports import LANGUAGE_MODEL_CARD, check_export, read_export, write_export
from jaxgen.generation.text import TextModel
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.language_model import LanguageModel, prefill_fn_of
from jaxgen.training.checkpoints import restore_like
from jaxgen.training.language_model import (
    LanguageModelTraining,
    build_model,
    init_params,
    make_text_evaluator,
    reset_id_of,
    unit_of,
)
from jaxgen.training.loop import Result
from jaxgen.training.memory import check_memory, tree_bytes
from jaxgen.training.parallel import candidate_devices
from jaxgen.training.progress import Display
from jaxgen.training.records import history
from jaxgen.training.runs import Run, locked
from jaxgen.training.seed_runs import SeedRuns, seed_group_of, seeds_history, seeds_to_resume
from jaxgen.training.starts import check_start
from jaxgen.training.train_seeds import seed_devices, train_seeds
from jaxgen.types import Array, PyTree

Which = Literal["best", "last"]

_SAMPLE_PROMPT = 40
"""Tokens of held-out text that samples continue where the settings name no prompt."""

# What a resumed run may set anew; everything else would make it another experiment.
RESUMABLE = {
    "data": {"files", "validation_files", "test_files"},
    "training": {"epochs", "max_steps", "max_minutes", "patience"},
    "samples": {"temperatures", "prompt", "max_new_tokens"},
}


@overload
def train(
    experiment: Experiment | str | Path | None = None,
    *,
    out: str | Path,
    seeds: None = None,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
) -> Result: ...


@overload
def train(
    experiment: Experiment | str | Path | None = None,
    *,
    out: str | Path,
    seeds: int,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
) -> list[Result]: ...


def train(
    experiment: Experiment | str | Path | None = None,
    *,
    out: str | Path,
    seeds: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
) -> Result | list[Result]:
    """Train a language model into a run directory.

    Args:
        experiment: Settings, or a TOML file with them; None takes the defaults, and with `resume`
            those of the run.
        out: The run directory.
        seeds: Train so many runs together as one program, in `out`/seed-0, `out`/seed-1 and so on,
            each with the next seed from `training.seed` and each a run directory like any other.
            One that diverges leaves the others alone, and says so in its result.
        resume: Continue the run there, bit for bit. Only lengths, limits, samples and the place
            of the files may differ from the run's settings.
        overwrite: Start anew where there is a run already.
        display: Where to show progress; by default on standard error.

    Returns:
        How it ended, of each seed with `seeds`. `load(out)` gives the trained model.

    Raises:
        UserError: Bad settings or corpus, a run that is there already (or is not, with `resume`),
            another process training there, a loss that is not finite, a full disk.
    """
    out = Path(out)
    if isinstance(experiment, str | Path):
        experiment = read_toml(experiment)
    if seed_group_of(out):
        raise UserError(
            f"{out} trains together with the seeds beside it; continue all of them with --resume "
            f"--out {seed_group_of(out)}, or copy it elsewhere to go on with it alone"
        )
    if resume:
        seeds = seeds_to_resume(out, seeds)
        experiment = _resumed(out, experiment)
    experiment = experiment or Experiment()
    first = experiment.training.seed
    numbers = range(first, first + (seeds or 0))
    if not resume:
        check_start(out, seeds=numbers, overwrite=overwrite)
    if seeds is None:
        candidate_devices(experiment.training.devices, experiment.training.batch_size)
    else:
        devices = seed_devices(experiment, seeds)
    corpus = load_corpus(experiment.data)
    with locked(out):
        if resume:
            tokenizer = Tokenizer.load(out / "tokenizer.json")
        else:
            tokenizer = fit_tokenizer(experiment.tokenizer, corpus)
        splits = encode_corpus(corpus, tokenizer, out / "tokens")
        training = LanguageModelTraining(experiment, tokenizer, splits)
        state = jax.eval_shape(training.state_of, jax.random.key(0))
        check_memory((tree_bytes(state) + tree_bytes(state.params)) * (seeds or 1))

        def files(seed: int = first) -> dict[str, str]:
            return {
                "config.toml": to_toml(_with_seed(experiment, seed)),
                "tokenizer.json": tokenizer.backend.to_str(pretty=True) + "\n",
            }

        if seeds is None:
            run = Run.open(out) if resume else Run.create(out, files(), overwrite=overwrite)
            run.write_file("config.toml", files()["config.toml"])
            return training.run(run, _sampler(training), display)
        make = partial(SeedRuns.create, overwrite=overwrite)
        home = SeedRuns.open(out) if resume else make(out, numbers, devices, files)
        home.write_file("config.toml", files()["config.toml"])
        for run, seed in zip(home.runs, numbers, strict=True):
            run.write_file("config.toml", files(seed)["config.toml"])
        return train_seeds(training, home, display)


def _with_seed(experiment: Experiment, seed: int) -> Experiment:
    training = experiment.training.model_copy(update={"seed": seed})
    return experiment.model_copy(update={"training": training})


def _sampler(training: LanguageModelTraining) -> Callable[[PyTree], list[tuple[float, str]]] | None:
    """What writes the samples that an evaluation shows: one text a temperature."""
    settings, held_out = training.experiment.samples, training.splits.validation
    temperatures = settings.temperatures
    if not temperatures:
        return None
    prompt = settings.prompt
    if prompt is None:
        source = held_out or training.splits.train
        ids = source.read(0, min(_SAMPLE_PROMPT, len(source)))
        prompt = training.tokenizer.decode(ids)
    lm = _text_model(training.experiment, training.tokenizer, {}, training.model)

    def write(params: PyTree) -> list[tuple[float, str]]:
        texts = replace(lm, params=params).generate(
            [prompt] * len(temperatures),
            max_new_tokens=settings.max_new_tokens,
            temperature=list(temperatures),
            key=training.experiment.training.seed,
        )
        return [(t, prompt + text) for t, text in zip(temperatures, texts, strict=True)]

    return write


def _resumed(out: Path, wanted: Experiment | None) -> Experiment:
    """The settings of a run, with those of `wanted` that a resumed run may set anew."""
    path = out / "config.toml"
    text = path.read_text("utf-8") if SeedRuns.exists(out) else Run.open(out).read_file(path.name)
    kept = parse_toml(text, source=str(path))
    for name, old, new in changes(kept, wanted or kept):
        section, _, setting = name.partition(".")
        if setting not in RESUMABLE.get(section, ()):
            raise UserError(
                f"a resumed run keeps its settings: `{name}` is {old!r} in {path}, got {new!r}; "
                "leave it out, or start a new run with another --out"
            )
    return wanted or kept


def changes(old: Experiment, new: Experiment) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, old value, new value) of each setting that differs."""
    for section in Experiment.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        for name in type(before).model_fields:
            if getattr(before, name) != getattr(after, name):
                yield f"{section}.{name}", getattr(before, name), getattr(after, name)


def load(path: str | Path, which: Which | None = None) -> TextModel:
    """Load a trained model from a run directory or an export.

    Args:
        path: The directory.
        which: Checkpoint of a run; None takes the best, or the last where none was evaluated.

    Raises:
        UserError: It is missing, half-written, damaged or of a newer format.
    """
    experiment, tokenizer, params = _read(Path(path), which)
    model = build_model(experiment.model, tokenizer.vocab_size)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    params = restore_like(shapes, params, where=str(path))
    return _text_model(experiment, tokenizer, jax.tree.map(jnp.asarray, params), model)


def _text_model(
    experiment: Experiment, tokenizer: Tokenizer, params: PyTree, model: LanguageModel
) -> TextModel:
    return TextModel(
        params=params,
        config=experiment,
        tokenizer=tokenizer,
        step_fn=step_fn_of(model),
        prefill_fn=prefill_fn_of(model),
        initial_carry=model.initial_carry,
    )


def _read(directory: Path, which: Which | None) -> tuple[Experiment, Tokenizer, PyTree]:
    """Settings, tokenizer and parameters of a run or an export."""
    if kind_of(directory) == "export":
        experiment, params = read_export(directory)
    else:
        run = Run.open(directory)
        experiment = parse_toml(run.read_file("config.toml"), str(directory / "config.toml"))
        params = run.load_params(which)
    return experiment, Tokenizer.load(directory / "tokenizer.json"), params


def settings_of(path: str | Path) -> Experiment:
    """The settings of a run or an export.

    Raises:
        UserError: As in `load`.
    """
    return _read(Path(path), None)[0]


def evaluate(
    path: str | Path,
    *,
    split: Literal["train", "validation", "test"] | None = None,
    protocol: Literal["exact", "windows"] = "exact",
    files: Sequence[str | Path] = (),
    which: Which | None = None,
) -> dict[str, Any]:
    """Measure a trained model on held-out text.

    Args:
        path: A run directory or an export.
        split: Part of its corpus; None takes the test part, or the validation part where there
            is no other.
        protocol: "exact" counts every token but the first once, with the carry flowing on;
            "windows" is the Keras recipe's: windows of 60, every third, each read from a zero
            carry, and only the token after it counts.
        files: Text to measure on instead of the model's corpus.
        which: As in `load`.

    Returns:
        What was measured, `tokens` counted, `nll` in nats per token, `perplexity`, and `bpc` in
        bits per token where tokens are characters or bytes.

    Raises:
        UserError: The model, its corpus or that part of it is not there.
    """
    experiment, tokenizer, params = _read(Path(path), which)
    data = experiment.data
    if files:
        given = {"dataset": None, "subset": None, "validation_files": (), "test_files": ()}
        shares = {"validation_fraction": 0.0, "test_fraction": 0.0}
        data = data.model_copy(update={**given, **shares, "files": tuple(map(Path, files))})
        split = "train"
    corpus = load_corpus(data)
    split = split or ("validation" if corpus.test is None else "test")
    source = getattr(corpus, split)
    if source is None:
        raise UserError(f"the corpus of {path} holds out no {split} text; choose another --split")
    model = build_model(experiment.model, tokenizer.vocab_size)
    unknown: Counter[str] = Counter()
    tokens = TokenArray(np.concatenate([*encode_source(source, tokenizer, unknown)]))
    warn_unknown(unknown, source.name)
    if protocol == "windows":
        nll = _window_nll(model, params, tokens)
    else:
        length = experiment.training.sequence_length
        nll = make_text_evaluator(model, length, reset_id_of(experiment, tokenizer))(params, tokens)
    figures = {"nll": nll.mean, "perplexity": nll.perplexity}
    if unit_of(tokenizer) == "bpc":
        figures["bpc"] = nll.bits
    where = {"path": str(path), "text": source.name, "split": None if files else split}
    return {**where, "protocol": protocol, "tokens": nll.count, **figures}


def training_tokens(path: str | Path) -> np.ndarray:
    """Ids of the text that a model was trained on, for `evaluation.memorisation`.

    Raises:
        UserError: The model or its corpus is not there any more.
    """
    experiment, tokenizer, _ = _read(Path(path), None)
    source = load_corpus(experiment.data).train
    return np.concatenate([*encode_source(source, tokenizer, Counter())])


def _window_nll(model: LanguageModel, params: PyTree, tokens: Tokens) -> Nll:
    def last_logits(model: LanguageModel, windows: Array) -> Array:
        carry = model.initial_carry(windows.shape[0])
        _, hidden = model.hidden_states(windows.T, carry)
        return model.logits(hidden[-1])

    apply = jax.jit(nn.apply(last_logits, model.clone(backend="auto")))
    return window_nll(
        lambda windows: apply({"params": params}, windows), tokens.read(0, len(tokens))
    )


def describe(path: str | Path) -> dict[str, Any]:
    """What is known about a run or an export without running it.

    Raises:
        UserError: As in `load`.
    """
    directory = Path(path)
    if SeedRuns.exists(directory):
        unit = unit_of(Tokenizer.load(directory / "tokenizer.json"))
        return {"path": str(path), "kind": "seeds", **seeds_history(directory, unit)}
    experiment, tokenizer, params = _read(directory, None)
    unit = unit_of(tokenizer)
    facts: dict[str, Any] = {
        "path": str(path),
        "kind": "export" if kind_of(directory) == "export" else "run",
        "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(params)),
        "tokenizer": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
    }
    if facts["kind"] == "run":
        facts |= history(Run.open(directory), unit)
    plain = Experiment()
    facts["settings"] = {name: new for name, _, new in changes(plain, experiment)}
    return facts


def export(
    path: str | Path,
    directory: str | Path,
    *,
    which: Which | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model as safetensors with its settings and tokenizer; `load` reads it.

    Args:
        path: A run directory (or another export).
        directory: Made if missing.
        which: As in `load`.
        overwrite: Replace an export that is there.

    Raises:
        UserError: The run cannot be read, or `check_export` refuses the directory.
    """
    check_export(directory, overwrite=overwrite)
    experiment, tokenizer, params = _read(Path(path), which)
    config = {
        "model_type": "jaxgen_language_model",
        "vocab_size": tokenizer.vocab_size,
        "experiment": experiment.model_dump(mode="json", exclude_defaults=True),
    }
    files = {"tokenizer.json": tokenizer.backend.to_str(pretty=True) + "\n"}
    card = LANGUAGE_MODEL_CARD.replace("{vocab_size}", f"{tokenizer.vocab_size:,}")
    write_export(directory, params, files, config, card, overwrite=overwrite)
