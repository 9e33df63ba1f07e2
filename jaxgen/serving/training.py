"""Training asked for over HTTP: one `jaxgen train` at a time, whose model is served in the end."""

import asyncio
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxgen.config import Experiment
from jaxgen.config.toml import to_toml
from jaxgen.directories import kind_of
from jaxgen.errors import UserError, first_line
from jaxgen.serving.models import Models, ServedModel, load_model
from jaxgen.serving.options import ServeOptions
from jaxgen.serving.problems import Problem

Status = Literal["running", "loading", "succeeded", "failed", "cancelled"]
COMMAND = (sys.executable, "-m", "jaxgen", "train")
KEPT_LINES = 40
"""Last lines of what a training prints that are shown."""
PATIENCE = 30.0
"""Seconds that a training has to save a checkpoint before it is killed."""
INTERRUPTED = 130
NICENESS = 10
_STEP = re.compile(r"step (\d+)(?:/(\d+))?  epoch ([\d.]+)")
_FIGURE = re.compile(r"(?<=  )(\w+) (-?\d+\.\d+)(?=  |$)")


@dataclass
class TrainingJob:
    """One training, and how far it is."""

    id: str
    name: str
    """What the model is served as; the run lies in the directory of that name."""
    task: str
    directory: Path
    created: int = field(default_factory=lambda: int(time.time()))
    finished: int | None = None
    status: Status = "running"
    step: int = 0
    total_steps: int | None = None
    epoch: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    """The last that were printed."""
    log: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    error: str | None = None
    process: "subprocess.Popen[bytes] | None" = None
    cancelled: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more happens."""
        return self.status in ("succeeded", "failed", "cancelled")

    def read(self, line: str) -> None:
        """Take in a line of what the training prints."""
        if not line.strip():
            return
        self.log.append(line)
        if found := _STEP.search(line):
            step, total, epoch = found.groups()
            self.step, self.epoch = int(step), float(epoch)
            self.total_steps = self.total_steps if total is None else int(total)
            self.figures |= {name: float(value) for name, value in _FIGURE.findall(line)}
            self.figures.pop("epoch", None)

    def end(self, status: Status, error: str | None = None) -> None:
        """Say how it ended."""
        self.status, self.error, self.finished = status, error, int(time.time())


class TrainingJobs:
    """The trainings of a server process, of which one runs at a time."""

    def __init__(self, models: Models, options: ServeOptions) -> None:
        """Trainings whose models join `models`."""
        self._models, self._options = models, options
        self.jobs: dict[str, TrainingJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, number: str) -> TrainingJob:
        """A training by its id; Problem 404 where there is none."""
        if number not in self.jobs:
            raise Problem(404, f"there is no training job `{number[:100]}`", field="id")
        return self.jobs[number]

    def start(self, name: str, experiment: Experiment) -> TrainingJob:
        """Begin to train.

        Args:
            name: of the model and of its run directory.
            experiment: its settings.

        Raises:
            Problem: 409 where one is being trained, or the name is taken.
        """
        if running := [job for job in self.jobs.values() if not job.ended]:
            raise Problem(
                409,
                f"one training runs at a time, and {running[0].id} has not ended; wait for it, or "
                f"cancel it with POST /v1/training-jobs/{running[0].id}/cancel",
            )
        directory = self._options.training_runs / name
        if any(served.name == name for served in self._models):
            raise Problem(409, f"`name` {name} is that of a model; choose another", field="name")
        if kind_of(directory) not in ("missing", "empty", "unfinished"):
            raise Problem(409, f"`name` {name} is that of a run; choose another", field="name")
        job = TrainingJob(f"train-{secrets.token_hex(8)}", name, experiment.task, directory)
        self.jobs[job.id] = job
        self._models.add(ServedModel(name, experiment.task, None))  # 409 until it is trained
        task = asyncio.get_running_loop().create_task(self._run(job, experiment))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def cancel(self, job: TrainingJob) -> None:
        """Stop a training; what it has done stays in its run directory."""
        job.cancelled = True
        process = job.process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()

    async def stop(self) -> None:
        """Cancel what runs; the server ends."""
        for job in self.jobs.values():
            if not job.ended:
                await self.cancel(job)
        await asyncio.gather(*self._tasks)

    async def _run(self, job: TrainingJob, experiment: Experiment) -> None:
        """Train, and serve what came of it."""
        try:
            code = INTERRUPTED if job.cancelled else await self._train(job, experiment)
            if job.cancelled or code == INTERRUPTED:
                job.end("cancelled")
            elif code:
                told = [line for line in job.log if line.startswith("error: ")]
                job.end("failed", "\n".join(told) or f"jaxgen train ended with code {code}")
            else:
                job.status = "loading"
                served = await asyncio.to_thread(load_model, job.name, job.directory, self._options)
                served.engine.start()
                self._models.add(served, replace=True)
                job.end("succeeded")
        except (UserError, OSError) as error:
            job.end("failed", first_line(error))
        finally:
            if job.status != "succeeded":
                self._models.remove(job.name)
            if not job.ended:
                job.end("failed", "the server failed; its log says where")

    async def _train(self, job: TrainingJob, experiment: Experiment) -> int:
        """Run `jaxgen train` to its end, and read what it prints; its exit code."""
        loop = asyncio.get_running_loop()

        def follow(process: "subprocess.Popen[bytes]") -> int:
            for line in _lines(process.stderr):
                loop.call_soon_threadsafe(job.read, line)
            return process.wait()

        with tempfile.TemporaryDirectory(prefix="jaxgen-") as folder:
            config = Path(folder, f"{job.name}.toml")
            config.write_text(to_toml(experiment), encoding="utf-8")
            # Not asyncio's: uvloop forks, which the threads of JAX do not bear.
            with subprocess.Popen(
                (*COMMAND, str(config), "--out", str(job.directory)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the server, which then cancels this
                env={**os.environ, "TERM": "dumb"},
            ) as process:
                job.process = process
                if hasattr(os, "setpriority"):  # requests come first
                    with suppress(OSError):
                        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
                return await asyncio.to_thread(follow, process)


def _lines(stream: Any) -> Iterator[str]:
    """Lines as they come, of any length; progress bars end theirs with carriage returns."""
    rest = b""
    while chunk := stream.read1(1 << 16):
        *lines, rest = re.split(rb"[\r\n]", rest + chunk)
        yield from (line[:1000].decode(errors="replace") for line in lines)
        rest = rest[-1000:]
    yield rest.decode(errors="replace")
