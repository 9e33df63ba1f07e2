"""One contestant in a process of its own, driven over stdin and stdout.

Thread pools of different libraries (and different `XLA_FLAGS`) cannot share a process without
disturbing each other, so each contestant gets a process, and the driver lets them run one at a
time: interleaved, as `benchmarks.timing` wants it. Only the standard library is imported here, so
that a worker also runs in another virtual environment.

A contestant is any class with keyword options, and methods that take and return JSON values. The
worker times each call itself: what crosses the pipe is never in the figure.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COLD = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""Environment of a process whose compiling counts."""


class WorkerError(RuntimeError):
    """The contestant raised, or its process died; the message carries its traceback."""


def build(target: str, options: dict[str, Any]) -> Any:
    """Import `package.module:Name` and construct it."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(**options)


class Worker:
    """Client side: starts the process, constructs the contestant, calls its methods.

    Args:
        target: `package.module:Class` of the contestant.
        python: interpreter to run it with.
        env: variables added to the environment, for example `XLA_FLAGS`.
        options: keyword arguments of the contestant, JSON values.
    """

    def __init__(
        self,
        target: str,
        *,
        python: str = sys.executable,
        env: dict[str, str] | None = None,
        **options: Any,
    ):
        self.target = target
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(env or {})}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        try:
            self.build_seconds = self._request({"target": target, "options": options})[1]
        except WorkerError:
            self.close()
            raise

    def call(self, method: str, **arguments: Any) -> Any:
        """The method's return value."""
        return self._request({"method": method, "arguments": arguments})[0]

    def timed(self, method: str, **arguments: Any) -> float:
        """Seconds that the method took, measured in the worker."""
        return self._request({"method": method, "arguments": arguments})[1]

    def peak_bytes(self) -> int:
        """Most memory that the process has held so far, its libraries included."""
        return self._request({"peak": True})[0]

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        self._process.wait(timeout=60)
        self._stderr.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, request: dict[str, Any]) -> tuple[Any, float]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            self._stderr.seek(0)
            tail = self._stderr.read()[-2000:]
            raise WorkerError(f"the worker for {self.target} died (exit {status}):\n{tail}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.target} raised:\n{reply['error']}")
        return reply["result"], reply["seconds"]


def peak_resident() -> int:
    """Most bytes this process has held. Not `ru_maxrss`: a child inherits its parent's there."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def serve() -> None:
    """Worker side: one JSON request a line on stdin, one JSON reply a line on stdout."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints goes to stderr
    contestant: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            started = time.perf_counter()
            result = None
            if "target" in request:
                contestant = build(request["target"], request["options"])
            elif "peak" in request:
                result = peak_resident()
            else:
                result = getattr(contestant, request["method"])(**request["arguments"])
            reply = {"result": result, "seconds": time.perf_counter() - started}
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            reply = {"error": f"{traceback.format_exc()}\n{reason}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve()
