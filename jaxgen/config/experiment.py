"""What the experiments of all tasks have in common."""

from collections.abc import Iterator
from typing import Any

from jaxgen.config.base import Config
from jaxgen.config.data import DataConfig
from jaxgen.config.optimizer import OptimizerConfig
from jaxgen.config.training import TrainingConfig


class Experiment(Config):
    """A whole experiment: what a TOML file holds and a run directory keeps.

    Each task has a subclass whose `task` is its name and whose other fields are its sections.
    """

    task: str = ""
    """Name of the task."""
    data: DataConfig = DataConfig()
    model: Config = Config()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()

    @classmethod
    def section_types(cls) -> dict[str, type[Config]]:
        """The class of each section."""
        return {
            name: type(info.default)
            for name, info in cls.model_fields.items()
            if isinstance(info.default, Config)
        }

    def sections(self) -> dict[str, Config]:
        """The settings of each section."""
        return {name: getattr(self, name) for name in self.section_types()}

    def updated(self, **sections: dict[str, Any]) -> "Experiment":
        """A copy with some settings of some sections set anew; nothing is checked."""
        changed = {
            name: getattr(self, name).model_copy(update=values) for name, values in sections.items()
        }
        return self.model_copy(update=changed)


def changes(old: Experiment, new: Experiment) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, old value, new value) of each setting in which two experiments differ."""
    for section, before in old.sections().items():
        after = getattr(new, section)
        for name in type(before).model_fields:
            if getattr(before, name) != getattr(after, name):
                yield f"{section}.{name}", getattr(before, name), getattr(after, name)
