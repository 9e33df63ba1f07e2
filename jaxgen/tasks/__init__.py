"""The tasks: one file each, and one table.

A task of your own joins by an entry in `TASKS` here and one of the same name in
`jaxgen.config.EXPERIMENTS`.
"""

from jaxgen.config import Experiment
from jaxgen.errors import UserError
from jaxgen.tasks.language_model import LANGUAGE_MODEL
from jaxgen.tasks.task import Task, check_options

__all__ = ["TASKS", "Task", "check_options", "task_of"]

TASKS: dict[str, Task] = {"language_model": LANGUAGE_MODEL}


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
