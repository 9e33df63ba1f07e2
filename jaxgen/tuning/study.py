"""A study: an Optuna study of one experiment and one space, in a database that workers share."""

import hashlib
import json
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from jaxgen.config import Experiment, changes
from jaxgen.config.toml import validate
from jaxgen.errors import UserError, first_line
from jaxgen.training.trainable import Objective
from jaxgen.tuning.space import Range, Space, base_values

FORMAT = 1
KEY = "jaxgen"
"""Attribute of the study that says what it is a study of."""
STARTUP_TRIALS = 5
"""Trials that are trained to their end before any is pruned."""
FIRST_PRUNED = 2
"""Number of the first evaluation after which a trial may be pruned."""
MAKING_TRIES = 50
"""Tenths of a second that another worker has to describe the study that it has made."""
HEARTBEAT_SECONDS = 30
"""Between the signs of life of a trial; without any for thrice as long it counts as failed."""


_AT_ONCE = ("already exists", "locked", "unique", "duplicate")
"""What a database says to one of two workers that make its tables at once."""


class SeededTPE(BaseSampler):
    """TPE whose random numbers follow from a seed and the number of the trial.

    So a study that is cut off and goes on proposes what it would have proposed, and no two workers
    that begin together propose the same.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = self._of(0)

    def _of(self, number: int) -> TPESampler:
        digest = hashlib.sha256(f"{self._seed} {number}".encode()).digest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=int.from_bytes(digest[:4]), constant_liar=True)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed what the trial draws."""
        self._tpe = self._of(trial.number)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As TPE."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As TPE."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


def open_study(
    url: str,
    name: str,
    experiment: Experiment,
    space: Space,
    objective: Objective,
    *,
    seeds: int | None,
    overwrite: bool = False,
) -> optuna.Study:
    """The study of that name, made or gone on with.

    Args:
        url: Of the database, as SQLAlchemy has it.
        name: Of the study in the database.
        experiment: What the trials have in common.
        space: What they differ in.
        objective: What is measured of each.
        seeds: Of each trial.
        overwrite: Delete a study that is there.

    Raises:
        UserError: The database cannot be used, or the study is of something else.
    """
    about = _about(experiment, space, objective, seeds)
    with storage_errors(url):
        storage = _open_storage(url)
        if overwrite and name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        made = _make(storage, name, objective)
        study = optuna.load_study(
            study_name=name,
            storage=storage,
            sampler=SeededTPE(experiment.training.seed),
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, FIRST_PRUNED),
        )
        close_with(study, storage)
        if made or not _is_described(study, f"{name} in {_shown(url)}"):
            study.set_user_attr(KEY, about)
            if first := base_values(space, experiment):
                study.enqueue_trial(_all_stored(first), skip_if_exists=True)
        _check_same(study.user_attrs[KEY], about, experiment, f"{name} in {_shown(url)}")
    return study


def _make(storage: optuna.storages.RDBStorage, name: str, objective: Objective) -> bool:
    """Make the study; returns whether there was none. Of workers at once, one makes it."""
    direction: Literal["maximize", "minimize"] = (
        "maximize" if objective.higher_is_better else "minimize"
    )
    try:
        optuna.create_study(study_name=name, storage=storage, direction=direction)
    except optuna.exceptions.DuplicatedStudyError:
        return False
    return True


def _is_described(study: optuna.Study, where: str) -> bool:
    """Whether a study says what it is of; the worker that makes it may be about to say it.

    Raises:
        UserError: It has trials and does not: it is not one of ours.
    """
    for _ in range(MAKING_TRIES):
        begun = bool(study.get_trials(deepcopy=False))  # first: it is described before its trials
        if KEY in study.user_attrs:
            return True
        if begun:
            raise UserError(f"the study {where} was not made by jaxgen; choose another `name`")
        time.sleep(0.1)
    return False  # the worker was killed before it said it


def identity(study: optuna.Study) -> str:
    """What tells a study from others: its name and what it is a study of."""
    text = json.dumps([study.study_name, study.user_attrs[KEY]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def suggest(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """The settings of a trial by their full names."""
    settings: dict[str, Any] = {}
    for name, allowed in space.items():
        if not isinstance(allowed, Range):
            by_stored = {stored(value): value for value in allowed.values}
            settings[name] = by_stored[trial.suggest_categorical(name, list(by_stored))]
        elif allowed.integer:
            low, high, step = int(allowed.low), int(allowed.high), int(allowed.step or 1)
            settings[name] = trial.suggest_int(name, low, high, step=step, log=allowed.log)
        else:
            settings[name] = trial.suggest_float(
                name, allowed.low, allowed.high, step=allowed.step, log=allowed.log
            )
    return settings


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Errors of the database as UserError, and Optuna silent, within the block."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable(url, error) from error
    except UnboundLocalError as error:  # Optuna's own, where the database is lost at a trial's end
        if isinstance(error.__context__, StorageInternalError):
            raise _unusable(url, error.__context__) from error
        raise
    finally:
        optuna.logging.set_verbosity(level)


def _unusable(url: str, error: BaseException) -> UserError:
    if isinstance(error, StorageInternalError):  # which only guesses at what its cause says
        error = error.__cause__ or error
    return UserError(
        f"cannot use the study's database {_shown(url)}: {first_line(error)}; give another as "
        "`study`, such as sqlite:///study.db or postgresql+psycopg://user@host/database"
    )


def _open_storage(url: str) -> optuna.storages.RDBStorage:
    """The database; workers that begin together may be in each other's way, so it tries again."""
    own: dict[str, Any] = {"pool_pre_ping": True}  # a server ends connections that are idle
    if url.startswith("sqlite"):
        own = {"connect_args": {"timeout": 60}}
    for attempt in range(5):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return optuna.storages.RDBStorage(
                    url,
                    engine_kwargs=own,
                    heartbeat_interval=HEARTBEAT_SECONDS,
                    grace_period=3 * HEARTBEAT_SECONDS,
                )
        except (ImportError, ValueError) as error:  # no driver for it, or a port that is no number
            raise _unusable(url, error) from error
        except SQLAlchemyError as error:
            if attempt == 4 or not any(words in str(error).lower() for words in _AT_ONCE):
                raise
            time.sleep(0.5 * (attempt + 1))
    raise AssertionError


def close_with(study: optuna.Study, storage: optuna.storages.RDBStorage) -> None:
    """Close a database when its study is gone: Optuna leaves that to the garbage collector."""

    def close() -> None:
        storage.remove_session()
        storage.engine.dispose()

    weakref.finalize(study, close)


def _about(
    experiment: Experiment, space: Space, objective: Objective, seeds: int | None
) -> dict[str, Any]:
    """What the study is of, as JSON values."""
    return {
        "format": FORMAT,
        "experiment": experiment.model_dump(mode="json"),
        "space": {name: _json(asdict(allowed)) for name, allowed in space.items()},
        "objective": objective.name,
        "seeds": seeds,
    }


def _check_same(
    kept: Mapping[str, Any], about: Mapping[str, Any], experiment: Experiment, where: str
) -> None:
    """UserError where a study is of another experiment, space or number of seeds."""
    out = "choose another `out` or `name`, or start it anew with `overwrite` (--force)"
    if kept.get("format") != FORMAT:
        raise UserError(f"the study {where} was written by a newer jaxgen; upgrade it")
    if kept["experiment"]["task"] != experiment.task:
        raise UserError(
            f"the study {where} is of task {kept['experiment']['task']}, got {experiment.task}; "
            f"{out}"
        )
    before = validate(kept["experiment"], f"the study {where}")
    for name, old, new in changes(before, experiment):
        section, _, setting = name.partition(".")
        free = getattr(experiment, section).changeable_on_resume
        if section == "training":
            free = frozenset({"devices"})
        if setting not in free and name not in about["space"]:
            raise UserError(
                f"the study {where} is of another experiment: its `{name}` is {old!r}, got {new!r};"
                f" {out}"
            )
    for name in kept["space"].keys() | about["space"].keys():
        old, new = kept["space"].get(name), about["space"].get(name)
        if old != new:
            raise UserError(
                f"the study {where} is of another space: it has {_allowed(old)} for `{name}`, got "
                f"{_allowed(new)}; {out}"
            )
    if kept["seeds"] != about["seeds"]:
        raise UserError(
            f"the study {where} trains {kept['seeds'] or 1} seeds a trial, got "
            f"{about['seeds'] or 1}; {out}"
        )


def _allowed(described: Mapping[str, Any] | None) -> str:
    if described is None:
        return "nothing"
    if "values" in described:
        return f"the choices {described['values']}"
    ends = f"{described['low']} to {described['high']}"
    return ends + f" in steps of {described['step']}" * bool(described["step"])


def _all_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: stored(value) for name, value in values.items()}


def stored(value: Any) -> Any:
    """A value as Optuna keeps it: lists as JSON text."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _shown(url: str) -> str:
    """A URL without the password in it."""
    scheme, rest = url.split("://", 1) if "://" in url else ("", url)
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{place}" if at else url
