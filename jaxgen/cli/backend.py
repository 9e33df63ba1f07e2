"""`jaxgen info --backend`: what would run the recurrence here, and why."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import DisallowNone

from jaxgen.cli.options import said
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Shapes:
    """Shapes to ask about instead of those of the run (or the defaults)."""

    batch_size: Annotated[int | None, DisallowNone, said] = None
    """Rows."""
    sequence_length: Annotated[int | None, DisallowNone, said] = None
    """Steps."""
    hidden_size: Annotated[int | None, DisallowNone, said] = None
    """Units."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, DisallowNone, said] = None
    """Compute type."""
    cell: Annotated[Literal["lstm", "layernorm_lstm"] | None, DisallowNone, said] = None
    """Recurrent cell."""


def backend_facts(run: Path | None, shapes: Shapes) -> dict[str, Any]:
    """The choice for training and for reading prompts, and what each backend lacks.

    Raises:
        UserError: the run cannot be read, a shape is out of its range, or the run insists on a
            backend that cannot run it here.
    """
    from jaxgen.config import EXPERIMENTS
    from jaxgen.config.toml import DEFAULT_TASK, validate
    from jaxgen.experiment import settings_of
    from jaxgen.ops.backends import BACKENDS, choose_backend, platform_here, unsupported_reason
    from jaxgen.tasks import task_of

    experiment = EXPERIMENTS[DEFAULT_TASK]() if run is None else settings_of(run)
    task = task_of(experiment)
    if task.recurrence is None:
        raise UserError(f"{run} is of task {experiment.task}, which runs no recurrence")
    given = {name: value for name, value in vars(shapes).items() if value is not None}
    sections: dict[str, Any] = experiment.model_dump()
    for name, value in given.items():
        section = "model" if name in sections["model"] else "training"
        sections[section][name] = value
    backend, spec = task.recurrence(validate(sections))
    where = platform_here()
    facts: dict[str, Any] = {
        "platform": where.name if where.device_kind is None else f"{where.name} ({where[1]})",
        "shapes": f"B={spec.B} T={spec.T} H={spec.H} {spec.dtype} {spec.cell}",
    }
    for use, choice in {
        "training": choose_backend(backend, spec, where),
        "prompts": choose_backend("auto", spec._replace(mask=True), where),
    }.items():
        facts[use] = f"{choice.name}: {choice.reason}"
    facts["can run it"] = {
        name: unsupported_reason(name, spec, where) or "yes" for name in BACKENDS if name != "auto"
    }
    return facts
