"""On how many devices a run trains: what there is, what is fastest, and compiling ahead for it."""

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import numpy as np

from jaxgen.config import TrainingConfig
from jaxgen.errors import UserError
from jaxgen.training.parallel import (
    JitSteps,
    Layout,
    jit_multi_step,
    make_layout,
    most_devices,
    most_spanning,
)
from jaxgen.training.progress import Display
from jaxgen.training.runs import Run
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.step import MultiStep, TrainState, evaluation_params
from jaxgen.training.trainable import Trainable
from jaxgen.types import PyTree

WORTH_MEASURING = 20.0
"""Seconds of training below which the number of devices is not worth a measurement."""
FAST_COMPILE = {"xla_backend_optimization_level": 1}
"""Compiler options, on a CPU, of a program that runs once: it compiles in half the time."""


def candidate_devices(devices: int | Literal["auto"], batch_size: int) -> tuple[int, ...]:
    """Device counts to choose from.

    Args:
        devices: A count, which is then the only one; or "auto": one device and all of them on a
            CPU, all of them elsewhere and over several processes.
        batch_size: Rows of a batch, which the count must divide.

    Raises:
        UserError: There are not so many devices, or they do not divide the batch.
    """
    available = jax.device_count()
    if jax.process_count() > 1:
        _check_spanning(devices, batch_size)
    if devices != "auto":
        if devices > available:
            raise UserError(
                f"`training.devices` must be at most the {available} that JAX sees, got "
                f'{devices}; use "auto"'
            )
        if batch_size % devices:
            raise UserError(
                f"`training.batch_size` must be a multiple of `training.devices`, got "
                f"{batch_size} and {devices}; {_multiples(batch_size, devices)}"
            )
        return (devices,)
    if jax.process_count() > 1:
        return (most_spanning(batch_size),)
    most = most_devices(batch_size)
    if most == 1:
        return (1,)
    return (1, most) if jax.default_backend() == "cpu" else (most,)


def _check_spanning(devices: int | Literal["auto"], batch_size: int) -> None:
    """UserError where a count of devices or rows is not one of as many in each process."""
    processes = jax.process_count()
    if batch_size % processes:
        raise UserError(
            f"`training.batch_size` must be a multiple of the {processes} processes, got "
            f"{batch_size}; {_multiples(batch_size, processes)}"
        )
    if devices != "auto" and devices % processes:
        raise UserError(
            f"`training.devices` counts those of all {processes} processes and must be a multiple "
            f'of that, got {devices}; {_multiples(devices, processes)}, or "auto"'
        )


def _multiples(value: int, of: int) -> str:
    """The multiples next to a value: "15 or 18 would do"."""
    below = value // of * of
    return f"{below} or {below + of} would do" if below else f"{of} would do"


def devices_wanted(config: TrainingConfig, notes: Mapping[str, Any]) -> int | Literal["auto"]:
    """What the settings ask for, or what a resumed run has trained on.

    Another number of processes may have to take another number of devices: then all there are.
    """
    wanted = notes.get("devices", config.devices)
    moved = "devices" in notes and notes.get("processes", 1) != jax.process_count()
    if moved and wanted != "auto":
        processes, available = jax.process_count(), jax.device_count()
        if wanted % processes or wanted > available or config.batch_size % wanted:
            return "auto"
    return wanted


def choose_devices(
    trainable: Trainable,
    init: Callable[[jax.Array], TrainState],
    schedule: StepSchedule,
    config: TrainingConfig,
    run: Run,
    display: Display,
    *,
    jit_steps: JitSteps = jit_multi_step,
) -> tuple[Layout, MultiStep]:
    """The compiled steps of one run, on the devices where they are fastest.

    That is measured once in the life of a run and noted there, because another number of devices
    draws other dropout masks and adds in another order. What an evaluation takes is compiled
    meanwhile. `init` is `jitted_init(trainable)`.
    """
    before, wanted = run.notes.get("devices"), devices_wanted(config, run.notes)
    counts = candidate_devices(wanted, config.batch_size)
    accumulate = config.accumulate_steps
    candidates: dict[int, tuple[Layout, MultiStep]] = {}
    for count in reversed(counts):
        layout = make_layout(count)
        train_step = trainable.train_step_on(layout.axis_name)
        candidates[count] = layout, jit_steps(train_step, layout, accumulate=accumulate)

    def first_state() -> TrainState:
        return init(jax.random.key(config.seed))

    devices = counts[-1]
    layout, multi_step = candidates[devices]
    blank = blank_state(init)
    with ThreadPoolExecutor(1) as aside:  # XLA compiles outside Python's lock
        params = layout.local(evaluation_params(layout.place_state(blank)))
        warmed_up = aside.submit(_warm_up, trainable, params)
        compile_ahead(multi_step, layout, layout.place_state(first_state()), schedule)
    warmed_up.result()
    if len(counts) > 1:
        seconds = measure_devices(
            candidates,
            first_state,
            schedule.read(0, schedule.length(0, schedule.capacity)),
            accumulate=accumulate,
            total_steps=schedule.total,
        )
        devices = fastest(seconds)
        if len(seconds) > 1:
            times = [f"{1e3 * s:.2f} ms a step on {n}" for n, s in seconds.items()]
            display.line(f"devices: {', '.join(times)}; training on {devices}")
        layout, multi_step = candidates[devices]
        if devices != counts[-1]:
            compile_ahead(multi_step, layout, layout.place_state(first_state()), schedule)
    if before not in (None, devices):
        display.line(
            f"devices: {before} before, {devices} from here on; float sums and dropout differ"
        )
    run.note(devices=devices, **({"processes": jax.process_count()} if layout.spans else {}))
    return layout, multi_step


def jitted_init(trainable: Trainable) -> Callable[[jax.Array], TrainState]:
    """The first state as one program: a run should not begin by compiling dozens."""
    options = FAST_COMPILE if jax.default_backend() == "cpu" else None
    return jax.jit(trainable.init_state, compiler_options=options)


def blank_state(init: Callable[[jax.Array], TrainState]) -> TrainState:
    """Zeros in the place of a state, but no key: enough to compile against."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes._replace(key=()))


def compile_ahead(
    multi_step: MultiStep, layout: Layout, state: TrainState, schedule: StepSchedule
) -> None:
    """Compile the steps for every shape of batch, by making none of them. Uses the state up."""
    for batches in schedule.blank_batches(layout.rows):
        placed = layout.place_batches(batches, accumulate=schedule.accumulate)
        state, _ = multi_step(state, placed, np.int32(0))  # the type that training passes


def _warm_up(trainable: Trainable, params: PyTree) -> None:
    if jax.process_index() > 0:  # process 0 alone evaluates
        return
    if trainable.evaluation is not None:
        trainable.evaluation.warm_up(params)
    if trainable.sample is not None:
        trainable.sample(params)


def measure_devices(
    candidates: Mapping[int, tuple[Layout, MultiStep]],
    make_state: Callable[[], TrainState],
    batches: PyTree,
    *,
    accumulate: int = 1,
    total_steps: int,
) -> dict[int, float]:
    """Measure a few steps with each layout, in turns; the states are thrown away.

    A training that the first layout ends within `WORTH_MEASURING` has only that one measured:
    to compile the other program would cost more than it may gain.

    Args:
        candidates: Layout and steps for each device count, the likeliest to be fastest first.
        make_state: Makes a fresh state (the steps donate it).
        batches: Batches of one dispatch, on the host.
        accumulate: Batches a step.
        total_steps: Steps of the whole training.

    Returns:
        Median seconds a step for each device count that was measured.
    """
    placed: dict[int, tuple[TrainState, PyTree]] = {}

    def seconds(devices: int, steps: int) -> float:
        layout, multi_step = candidates[devices]
        if devices not in placed:
            state = layout.place_state(make_state())
            placed[devices] = state, layout.place_batches(batches, accumulate=accumulate)
        state, inputs = placed[devices]
        start = time.perf_counter()
        state, metrics = multi_step(state, inputs, np.int32(steps))  # the type that training passes
        jax.block_until_ready(metrics)
        placed[devices] = state, inputs
        return (time.perf_counter() - start) / steps

    first, *rest = candidates
    seconds(first, 1)  # compiles
    one = seconds(first, 1)
    if one * total_steps < WORTH_MEASURING:
        return {first: one}
    for devices in rest:
        seconds(devices, 1)
    steps = max(1, min(jax.tree.leaves(batches)[0].shape[0], int(0.2 / one)))
    rounds = [{devices: seconds(devices, steps) for devices in candidates} for _ in range(5)]
    return {devices: statistics.median(r[devices] for r in rounds) for devices in candidates}


def fastest(seconds: Mapping[int, float]) -> int:
    """The device count to train with: more devices must gain a twentieth, or noise decides."""
    best = min(seconds)
    for devices in sorted(seconds):
        if seconds[devices] < 0.95 * seconds[best]:
            best = devices
    return best
