"""A run directory as the processes see it that train with process 0: they write nothing."""

from collections.abc import Mapping
from typing import Any

from jaxgen.training.runs import Run
from jaxgen.training.step import TrainState


class FollowedRun(Run):
    """The index that process 0 has, kept in step; nothing is read from the disk."""

    def note(self, **decisions: Any) -> None:
        """See `Run`."""
        self.notes.update(decisions)

    def prepare(
        self, state: TrainState, progress: Mapping[str, Any], *, best: bool = False
    ) -> dict[str, Any]:
        """What process 0 makes of the index, but for the files."""
        entry = {"step": int(state.step), "directory": "", "files": {}}
        last = {**entry, "progress": dict(progress), "metrics_bytes": 0}
        return self.index | {"last": last} | ({"best": entry} if best else {})

    def commit(self, index: dict[str, Any]) -> None:
        """See `Run`."""
        self.index = index

    def restore(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The template in the place of the state, which process 0 sends, and the progress."""
        entry = self.index["last"]
        return None if entry is None else (template, entry["progress"])

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """See `Run`."""
