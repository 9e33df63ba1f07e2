"""Several processes that train one model: what they agree on, and what becomes of one that fails.

Process 0 alone reads and writes the run directory, evaluates and decides what follows a clock. What
it found goes to the others through the key-value store of JAX's coordinator: on the hosts, so that
no device waits for it. Only states go over the devices.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from inspect import signature
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxgen.config.distributed import Distributed
from jaxgen.errors import UserError, first_line
from jaxgen.training.watchdog import BAD_INPUT, TRY_AGAIN, Watchdog, end_now
from jaxgen.types import PyTree

T = TypeVar("T")

SILENT_SECONDS = 60.0
"""After so long a process that says nothing counts as lost."""
KEPT = 64
"""Messages of process 0 that the coordinator keeps; no process can be so far behind another."""
GRACE = 3.0
"""Seconds that process 0, where the coordinator runs, stays after an error, so that all hear it."""


class ProcessLostError(UserError):
    """Another process is gone or hangs: start all of them again, with `resume`."""


class Processes:
    """The processes of a training; of this class where there is one alone."""

    index = 0
    """Number of this one."""
    count = 1

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which alone writes."""
        return self.index == 0

    def from_first(self, what: str, make: Callable[[], T]) -> T:
        """What `make` gives in process 0, which alone calls it; JSON values."""
        return make()

    def first_before_others(self, what: str, make: Callable[[], T]) -> T:
        """What `make` gives in each process, process 0 before the others, which find its files."""
        return make()

    def check_same(self, own: Mapping[str, Any]) -> None:
        """Check that named JSON values are those of process 0.

        Raises:
            UserError: One is another; it and both values are named.
        """

    def state_from_first(self, state: PyTree) -> PyTree:
        """A tree of arrays, bit for bit that of process 0."""
        return state

    def any_interrupted(self, own: Callable[[], bool]) -> Callable[[], bool]:
        """Whether any process was interrupted, for process 0; in the others `own`."""
        return own

    def waiting(self, what: str) -> AbstractContextManager[None]:
        """A block in which the devices wait for those of other processes."""
        return nullcontext()

    def wait_for_all(self, what: str) -> None:
        """Wait until all processes are here."""


ALONE = Processes()


class JoinedProcesses(Processes):
    """Several processes, joined by `jax.distributed`."""

    def __init__(self, distributed: Distributed) -> None:
        """Take the place that `jax.distributed.initialize` gave this process."""
        state = _state()
        self.index, self.count = state.process_id, state.num_processes
        self._client, self._seconds = state.client, distributed.timeout_seconds
        self._messages = self._beats = 0
        self._active = False
        self._heard: dict[str, tuple[str, float]] = {}
        self._watchdog = Watchdog(self._failure_elsewhere, self._tell)

    def from_first(self, what: str, make: Callable[[], T]) -> T:
        """See `Processes`."""
        key = self._key(what)
        if self.leads:
            text = json.dumps(make(), default=_plain)
            self._client.key_value_set(key, text)
        else:
            text = self._awaited(f"process 0 at {what}", self._client.blocking_key_value_get, key)
        return json.loads(text)

    def first_before_others(self, what: str, make: Callable[[], T]) -> T:
        """See `Processes`."""
        if self.leads:
            made = make()
            self.from_first(what, lambda: None)
            return made
        self.from_first(what, lambda: None)
        return make()

    def check_same(self, own: Mapping[str, Any]) -> None:
        """See `Processes`."""
        own = json.loads(json.dumps(own, default=str))
        first: Mapping[str, Any] = self.from_first("the settings", lambda: own)
        for name in sorted(own.keys() | first.keys()):
            if own.get(name) != first.get(name):
                raise UserError(
                    f"process {self.index} has {name} {own.get(name)!r}, and process 0 has "
                    f"{first.get(name)!r}; start all processes with the same"
                )

    def state_from_first(self, state: PyTree) -> PyTree:
        """See `Processes`."""
        leaves, treedef = jax.tree.flatten(state)
        arrays = [np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in leaves]
        parts = [np.frombuffer(array.tobytes(), np.uint8) for array in arrays]
        filled = np.zeros(-sum(map(len, parts)) % 4, np.uint8)
        words = np.concatenate([*parts, filled]).view(np.uint32)  # exact: the others add zeros
        self.wait_for_all("the state")
        with self.waiting("the state"):
            content = np.asarray(multihost_utils.broadcast_one_to_all(words)).tobytes()
        placed, start = [], 0
        for leaf, array in zip(leaves, arrays, strict=True):
            own = np.frombuffer(content, array.dtype, array.size, start).reshape(array.shape)
            start += array.nbytes
            placed.append(
                jax.random.wrap_key_data(jax.numpy.asarray(own), impl=jax.random.key_impl(leaf))
                if _is_key(leaf)
                else own
            )
        return jax.tree.unflatten(treedef, placed)

    def any_interrupted(self, own: Callable[[], bool]) -> Callable[[], bool]:
        """See `Processes`."""
        folder, said = self._key("interrupted"), list[bool]()

        def interrupted() -> bool:
            if self.leads:
                return own() or bool(self._client.key_value_dir_get(folder))
            if own() and not said:
                said.append(True)
                self._client.key_value_set(f"{folder}/{self.index}", "")
            return own()

        return interrupted

    def waiting(self, what: str) -> AbstractContextManager[None]:
        """See `Processes`."""
        return self._watchdog.waiting(
            self._seconds, self._gave_up(f"the other processes at {what}")
        )

    def wait_for_all(self, what: str) -> None:
        """See `Processes`."""
        self._awaited(f"all processes at {what}", self._client.wait_at_barrier, self._key(what))

    def fail(self, error: BaseException) -> None:
        """Tell the other processes why this one ends."""
        self._tell(first_line(error), _code(error))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A block in which this process says that it lives, and hears whether the others do."""
        self._heard.clear()
        self._active = True
        try:
            yield
        finally:
            self._active = False

    def _tell(self, error: str, code: int) -> None:
        if not self._active:  # told already
            return
        self._active = False
        with suppress(jax.errors.JaxRuntimeError):  # the coordinator may be gone
            self._client.key_value_set(f"jaxgen/failed/{self.index}", json.dumps([error, code]))
            if self.leads:
                time.sleep(GRACE)

    def _failure_elsewhere(self) -> tuple[str, int] | None:
        """The error of another process and the exit code, once there is one."""
        if not self._active:
            return None
        try:
            self._beats += 1
            alive = f"jaxgen/alive/{self.index}"
            self._client.key_value_set(alive, str(self._beats), allow_overwrite=True)
            told = self._client.key_value_dir_get("jaxgen/failed/")
            beats = self._client.key_value_dir_get("jaxgen/alive/") if self.leads else ()
        except jax.errors.JaxRuntimeError:  # JAX itself ends this process when process 0 is gone
            return None
        if told:
            time.sleep(GRACE / 2)  # the same error may be on its way here
            key, text = told[0]
            error, code = json.loads(text)
            return (f"process {_number(key)} ended: {error}", code) if self._active else None
        return self._silence(beats)

    def _silence(self, beats: Sequence[tuple[str, str]]) -> tuple[str, int] | None:
        """What to say of a process that has said nothing for long, if there is one."""
        now, limit = time.monotonic(), min(self._seconds, SILENT_SECONDS)
        for key, beat in beats:
            if self._heard.get(key, ("", 0.0))[0] != beat:
                self._heard[key] = beat, now
        for key, (_, heard) in self._heard.items():
            if now - heard > limit:
                return (
                    f"process {_number(key)} has been silent for {limit:g} s: it is lost, or its "
                    "machine is stopped; start all processes again with --resume",
                    TRY_AGAIN,
                )
        return None

    def _key(self, what: str) -> str:
        """Where in the store a message lies. All processes send the same ones in the same order."""
        self._messages += 1
        if self.leads and self._messages > KEPT:
            self._client.key_value_delete(f"jaxgen/{self._messages - KEPT}/")
        return f"jaxgen/{self._messages}/{what.replace(' ', '-')}"

    def _awaited(self, whom: str, wait: Callable[..., T], key: str) -> T:
        try:
            return wait(key, round(1000 * self._seconds))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                raise ProcessLostError(self._gave_up(whom)) from error
            raise

    def _gave_up(self, whom: str) -> str:
        return (
            f"process {self.index} waited {self._seconds:g} s for {whom}; it hangs or is lost: "
            "start all processes again with --resume, or give them longer with "
            "--distributed.timeout-seconds"
        )


_LATER: dict[str, Any] = {"heartbeat_timeout_seconds": 120, "shutdown_timeout_seconds": 30}
"""What newer versions of JAX take. Its own heartbeat, too, ends a process later than ours."""
_joined: JoinedProcesses | None = None


@contextmanager
def joined(distributed: Distributed | None) -> Iterator[Processes]:
    """The processes that train together, this one among them.

    Where `jax.distributed` is initialised already, as Ray's `JaxTrainer` does, that is taken.

    Args:
        distributed: Where this process stands; None or without a coordinator, it is alone unless
            JAX says otherwise.

    Raises:
        UserError: The place is impossible, no scheduler says it, JAX has begun to compute.
        ProcessLostError: While training, another process was lost; of this block.
    """
    distributed = distributed or Distributed()
    distributed.check()
    processes = _join(distributed)
    if not isinstance(processes, JoinedProcesses):
        yield processes
        return
    with processes.watched():
        try:
            yield processes
            processes.wait_for_all("the end")
        except BaseException as error:
            lost = _loss(error)
            processes.fail(lost or error)
            if lost is not None:
                raise lost from error
            raise


@contextmanager
def ending_at_once() -> Iterator[Callable[[], bool]]:
    """A command: an error of one of several processes ends it, without waiting for the others.

    Yields:
        A function that says whether this is process 0, or alone.
    """
    try:
        yield lambda: _joined is None or _joined.leads
    except UserError as error:
        if _joined is None:
            raise
        end_now(str(error), _code(error))


def _code(error: BaseException) -> int:
    """The exit code: 2 for what only the user can mend, else another start may help."""
    bad_input = isinstance(error, UserError) and not isinstance(error, ProcessLostError)
    return BAD_INPUT if bad_input else TRY_AGAIN


def _join(distributed: Distributed) -> Processes:
    global _joined
    if _joined is not None:
        return _joined
    if not jax.distributed.is_initialized():
        if distributed.coordinator is None:
            return ALONE
        _initialize(distributed)
    if _state().num_processes == 1:
        return ALONE
    _joined = JoinedProcesses(distributed)
    return _joined


def _initialize(distributed: Distributed) -> None:
    """Let the processes find each other; where they do not, JAX itself would abort."""
    address = None if distributed.coordinator == "auto" else distributed.coordinator
    seconds = distributed.connect_seconds
    where = "the coordinator" if address is None else f"the coordinator {address}"
    missing = (
        f"after {seconds:g} s {where} or some process had not come; start all processes, with the "
        "same address and the same number of processes, or give them longer with "
        "--distributed.connect-seconds"
    )
    limit = threading.Timer(seconds, end_now, (missing, TRY_AGAIN))
    limit.daemon = True
    limit.start()
    known = signature(jax.distributed.initialize).parameters
    try:
        jax.distributed.initialize(
            address,
            _given(distributed.num_processes, "JAX_NUM_PROCESSES"),
            _given(distributed.process_id, "JAX_PROCESS_ID"),
            initialization_timeout=round(seconds) + 60,  # later than ours, which says more
            **{name: value for name, value in _LATER.items() if name in known},
        )
    except ValueError as error:
        raise UserError(
            "`distributed.coordinator` auto found no scheduler that says where this process "
            f"stands ({first_line(error)}); give host:port of process 0 with "
            "--distributed.num-processes and --distributed.process-id"
        ) from error
    except RuntimeError as error:
        raise UserError(f"the processes cannot be joined: {first_line(error)}") from error
    finally:
        limit.cancel()


def _given(number: int | None, variable: str) -> int | None:
    """A number, or what Kubeflow says in the environment; JAX reads only the address there."""
    text = os.environ.get(variable, "")
    return int(text) if number is None and text.isdecimal() else number


def _loss(error: BaseException) -> ProcessLostError | None:
    """What to say of an error that another process's end caused; None for other errors."""
    text = "" if isinstance(error, UserError) else str(error)
    signs = ("Gloo", "NCCL", "UNAVAILABLE", "CANCELLED", "ABORTED", "Connection closed")
    if not any(sign in text for sign in signs):
        return None
    return ProcessLostError(
        f"another process ended or cannot be reached ({first_line(error)[:160]}); start all "
        "processes again with --resume"
    )


def _state() -> Any:
    """JAX's own account of the processes; its key-value store has no public name yet."""
    from jax._src.distributed import global_state

    return global_state


def _number(key: str) -> str:
    """The process that a key of the store ends with."""
    return key.rpartition("/")[2]


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(value: Any) -> Any:
    """A NumPy or JAX scalar as JSON has it."""
    return value.item()
