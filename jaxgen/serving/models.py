"""The models that are served, by name."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxgen.errors import UserError, nearest
from jaxgen.serving.handles import model_fingerprint
from jaxgen.serving.options import ServeOptions
from jaxgen.serving.problems import Problem


@dataclass
class ServedModel:
    """One model of the service."""

    name: str
    task: str
    """`language_model`, `classifier` and so on, as in `jaxgen.tasks.TASKS`."""
    model: Any
    """What `jaxgen.load` gives; None while it is trained."""
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time."""
    engine: Any = None
    """Of a model that writes: its `jaxgen.serving.requests.Engine`."""
    ready: bool = False
    """Whether its programs are compiled, where it has no engine to ask."""
    fingerprint: str = ""
    """Of its parameters and tokenizer: a session fits models that share it."""

    @property
    def is_ready(self) -> bool:
        """Whether it answers at once."""
        return self.ready if self.engine is None else bool(self.engine.ready)

    @property
    def failure(self) -> BaseException | None:
        """What ended its engine, if anything."""
        found: BaseException | None = getattr(self.engine, "failure", None)
        return found

    @property
    def command(self) -> str:
        """The command that uses it: "generate", "predict", "translate"."""
        from jaxgen.tasks import TASKS

        return TASKS[self.task].command

    @property
    def endpoint(self) -> str:
        """What of the service uses it."""
        return ENDPOINTS.get(self.command, "none")


ENDPOINTS = {
    "generate": "POST /v1/completions",
    "predict": "POST /v1/classify",
    "translate": "POST /v1/translate",
}


class Models:
    """Those there are; models may join while the service runs."""

    def __init__(self) -> None:
        self._by_name: dict[str, ServedModel] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, served: ServedModel, *, replace: bool = False) -> None:
        """Take one more; UserError where its name is taken."""
        if served.name in self._by_name and not replace:
            raise UserError(f"two models have the name {served.name}; name one otherwise: NAME=RUN")
        self._by_name[served.name] = served

    def remove(self, name: str) -> None:
        """Forget one, if it is there."""
        self._by_name.pop(name, None)

    def find(self, name: str) -> ServedModel:
        """The model of that name; Problem 404 where there is none."""
        served = self._by_name.get(name)
        if served is None:
            names = list(self._by_name)
            there = f"there are {', '.join(names)}" if names else "there is none"
            raise Problem(
                404,
                f"there is no model `{name[:100]}`{nearest(name[:100], names)}; {there}",
                field="model",
                models=names,
            )
        return served

    def trained(self, name: str) -> ServedModel:
        """The model of that name; Problem 409 where it is not trained yet, 404 for none."""
        served = self.find(name)
        if served.model is None:
            raise Problem(409, f"the model {name} is not trained yet; try again later")
        return served

    def get(self, name: str, command: str) -> ServedModel:
        """The model of a request.

        Args:
            name: as the client wrote it.
            command: what is asked of it: "generate", "predict" or "translate".

        Raises:
            Problem: 404 where there is none of that name, 422 where it is of another task, 409
                where it is not trained yet.
        """
        served = self.find(name)
        if served.command != command:
            raise Problem(
                422,
                f"`model` {name} is of task {served.task}; use {served.endpoint}",
                field="model",
            )
        return self.trained(name)


def named_runs(arguments: list[str] | tuple[str, ...]) -> dict[str, Path]:
    """Directories by the names they are served under, from `RUN` and `NAME=RUN`.

    Raises:
        UserError: two have one name.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        name, equals, rest = argument.partition("=")
        if equals and not Path(argument).exists():
            path = Path(rest)
        else:
            path = Path(argument)
            name = path.resolve().name
        if not name:
            raise UserError(f"{argument!r} gives a run no name; write NAME={path}")
        if name in found:
            raise UserError(
                f"two runs would be served as `{name}`: {found[name]} and {path}; give one "
                f"another name: NAME={path}"
            )
        found[name] = path
    return found


def load_model(
    name: str,
    path: str | Path,
    options: ServeOptions,
    which: Literal["best", "last"] | None = None,
) -> ServedModel:
    """Load a run or an export to be served; its engine is not started.

    Args:
        name: what clients call it.
        path: the directory.
        options: of the server.
        which: as in `jaxgen.load`.

    Raises:
        UserError: as in `jaxgen.load`, or its task is not served.
    """
    from jaxgen.saved import load_saved, read_saved

    saved = read_saved(path, which)
    served = ServedModel(name, saved.experiment.task, load_saved(saved, str(path)))
    if served.command == "generate":
        serve_text_model(served, options)
    elif served.command == "predict":
        from jaxgen.serving.classifying import ClassifierService

        served.engine = ClassifierService(served.model)
    elif served.command == "translate":
        from jaxgen.serving.translating import TranslatorService

        served.engine = TranslatorService(served.model)
    else:
        raise UserError(f"{path} is of task {served.task}, which is not served; leave it out")
    return served


def serve_text_model(served: ServedModel, options: ServeOptions) -> None:
    """Give a language model its engine."""
    from jaxgen.serving.engine import EngineOptions, TextEngine

    engine_options = EngineOptions(
        slots=options.slots,
        waiting_requests=options.queue,
        waiting_tokens=options.queue_tokens,
    )
    served.engine = TextEngine(served.model, engine_options)
    served.fingerprint = model_fingerprint(served.model)
