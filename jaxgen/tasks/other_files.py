"""Files to measure a model on in the place of its own corpus: named, checked, opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.config import Experiment
from jaxgen.errors import UserError
from jaxgen.tasks.task import Task

Paths = str | Path | Sequence[str | Path]


class OtherFiles(NamedTuple):
    """What `evaluate` is given besides a run; none of it is the model's own corpus."""

    files: Sequence[Path]
    source_files: Sequence[Path]
    """With a source in each line."""
    target_files: Sequence[Path]
    """As many, with the targets of these lines."""

    @classmethod
    def named(cls, *given: Paths) -> "OtherFiles":
        """Each of the three may be one path, or several."""
        return cls(*([Path(x)] if isinstance(x, str | Path) else [*map(Path, x)] for x in given))

    def check(self, split: str | None) -> None:
        """UserError where they do not go together, or with a part of the model's own corpus."""
        names = [name for name, paths in self._asdict().items() if paths]
        if names and split is not None:
            raise UserError(
                f"`split` names a part of the model's own corpus, got {split} beside "
                f"`{names[0]}`; leave one of them out"
            )
        if self.files and len(names) > 1:
            raise UserError(
                f"`files` (--files) hold whole pairs, got `{names[1]}` beside them; leave one of "
                "the two out"
            )
        sides = len(self.source_files), len(self.target_files)
        if sides[0] != sides[1]:
            raise UserError(
                "`source_files` (--source-files) and `target_files` (--target-files) must be as "
                f"many, got {sides[0]} and {sides[1]}; give the files of both sides in the same "
                "order"
            )

    def open(self, task: Task, experiment: Experiment) -> Any:
        """What they hold, or the data of the settings where there are none.

        Raises:
            UserError: The task reads no such files, or they cannot be read.
        """
        if not any(self):
            return task.open_data(experiment)
        try:
            return self._open(task, experiment)
        except UserError as error:
            if "--data." not in str(error):
                raise
            raise UserError(
                f"{error}; that is an option of `train`, and other files are read by the settings "
                "of the run, so change the files"
            ) from error

    def _open(self, task: Task, experiment: Experiment) -> Any:
        if self.source_files:
            if task.open_parallel is None:
                raise UserError(
                    "`source_files` (--source-files) and `target_files` (--target-files) are for "
                    f"pairs of texts, and this model is of task {experiment.task}; give `files` "
                    "(--files)"
                )
            return task.open_parallel(experiment, self.source_files, self.target_files)
        if task.open_files is None:
            raise UserError(
                f"task {experiment.task} reads no `files`; leave them out to measure on its own "
                "data"
            )
        return task.open_files(experiment, self.files)
