"""The tasks: one file each, and one table.

A task of your own joins by an entry in `TASKS` here and one of the same name in
`jaxgen.config.EXPERIMENTS`.
"""

from collections.abc import Iterable

from jaxgen.config import Experiment
from jaxgen.errors import UserError
from jaxgen.tasks.classifier import CLASSIFIER
from jaxgen.tasks.conditional import CONDITIONAL
from jaxgen.tasks.language_model import LANGUAGE_MODEL
from jaxgen.tasks.seq2seq import SEQ2SEQ
from jaxgen.tasks.task import Saved, Task
from jaxgen.tasks.text_gan import TEXT_GAN

__all__ = ["TASKS", "Saved", "Task", "check_evaluate_options", "task_of"]

TASKS: dict[str, Task] = {
    "language_model": LANGUAGE_MODEL,
    "classifier": CLASSIFIER,
    "conditional_language_model": CONDITIONAL,
    "seq2seq": SEQ2SEQ,
    "text_gan": TEXT_GAN,
}


def task_of(experiment: Experiment) -> Task:
    """The task of an experiment.

    Raises:
        UserError: Its name is in `EXPERIMENTS` but not in `TASKS`.
    """
    if experiment.task not in TASKS:
        raise UserError(
            f"task {experiment.task} has settings but no functions: add it to "
            f"`jaxgen.tasks.TASKS`, which has {', '.join(TASKS)}"
        )
    return TASKS[experiment.task]


def check_evaluate_options(task: str, options: Iterable[str]) -> None:
    """UserError for an option of `evaluate` that a task does not have; it names those that do."""
    known = TASKS[task].evaluate_options
    for name in options:
        if name in known:
            continue
        flag = f"--{name.replace('_', '-')}"
        others = [other for other, its in TASKS.items() if name in its.evaluate_options]
        if others:
            raise UserError(
                f"`{name}` ({flag}) is for task {' and '.join(others)}, and this model is of task "
                f"{task}; leave it out"
            )
        has = f"has {', '.join(f'`{own}`' for own in known)}" if known else "has none"
        raise UserError(f"the evaluation of task {task} has no option `{name}`; it {has}")
