"""`/v1/training-jobs`: train a model on the server, watch it, and use it when it is done."""

from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from jaxgen.config.toml import parse_toml, validate
from jaxgen.errors import UserError
from jaxgen.serving.problems import Problem, responses
from jaxgen.serving.routes import make_router
from jaxgen.serving.service import TheService
from jaxgen.serving.training import TrainingJob, TrainingJobs

router = make_router("training")

_CONFIG: Any = {
    "task": "classifier",
    "data": {"files": ["reviews.csv"], "column": "text", "label_column": "label"},
    "training": {"epochs": 3},
}


class TrainingRequest(BaseModel):
    """What to train."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "reviews", "config": _CONFIG}]},
    )

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="What the model is served as, and the name of its run directory.",
        examples=["reviews"],
    )
    config: dict[str, Any] | str = Field(
        description="The settings of `jaxgen train`, as an object or as the text of a TOML file. "
        "Files are those of the server.",
        examples=[_CONFIG],
    )


class TrainingState(BaseModel):
    """A training, and how far it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "train-0123456789abcdef",
                "object": "training_job",
                "name": "reviews",
                "task": "classifier",
                "status": "running",
                "created": 1790000000,
                "finished": None,
                "step": 120,
                "total_steps": 480,
                "epoch": 0.75,
                "figures": {"nll": 0.4312, "accuracy": 0.81},
                "log": ["step 120/480  epoch 0.75  nll 0.4312  accuracy 0.8100"],
                "error": None,
            }
        }
    )

    id: str
    object: Literal["training_job"] = "training_job"
    name: str
    task: str
    status: Literal["running", "loading", "succeeded", "failed", "cancelled"] = Field(
        description="`loading`: trained, and about to be served."
    )
    created: int
    finished: int | None
    step: int
    total_steps: int | None = Field(description="Null until the training says it.")
    epoch: float
    figures: dict[str, float] = Field(description="The last that were printed.")
    log: list[str] = Field(description="The last lines that were printed.")
    error: str | None = Field(description="Why it failed.")


class TrainingList(BaseModel):
    """All trainings of this server process."""

    object: Literal["list"] = "list"
    data: list[TrainingState]


def _state(job: TrainingJob) -> TrainingState:
    same = {name: getattr(job, name) for name in TrainingState.model_fields if name != "object"}
    return TrainingState(**{**same, "log": list(job.log)})


def _jobs(request: Request) -> TrainingJobs:
    jobs: TrainingJobs = request.app.state.training
    return jobs


def _check_allowed(service: TheService) -> None:
    if not service.options.allow_training:
        raise Problem(
            403, "this server trains nothing; start it with `jaxgen serve --allow-training`"
        )


@router.post(
    "/v1/training-jobs", status_code=202, summary="Train a model", responses=responses(403, 409)
)
async def start(body: TrainingRequest, request: Request, service: TheService) -> TrainingState:
    """Begin to train; one model at a time. It is served under its name when it is done."""
    _check_allowed(service)
    service.check_running()
    try:
        if isinstance(body.config, str):
            experiment = parse_toml(body.config, "`config`")
        else:
            experiment = validate(body.config, "`config`")
    except UserError as error:
        raise Problem(422, str(error), field="config") from None
    return _state(_jobs(request).start(body.name, experiment))


@router.get("/v1/training-jobs", summary="The trainings of this server")
async def show_all(request: Request) -> TrainingList:
    """Every training since the server was started, the last first."""
    return TrainingList(data=[_state(job) for job in reversed(_jobs(request).jobs.values())])


@router.get("/v1/training-jobs/{id}", summary="One training")
async def show(id: str, request: Request) -> TrainingState:
    """How far a training is."""
    return _state(_jobs(request).get(id))


@router.post(
    "/v1/training-jobs/{id}/cancel", summary="Stop a training", responses=responses(403, 409)
)
async def cancel(id: str, request: Request, service: TheService) -> TrainingState:
    """Stop a training. What it has done stays in its run directory; it is not served."""
    _check_allowed(service)
    jobs = _jobs(request)
    job = jobs.get(id)
    if job.ended:
        raise Problem(409, f"the training {id} has ended: it {job.status}")
    await jobs.cancel(job)
    return _state(job)
