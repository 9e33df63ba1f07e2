"""Several processes of the command line that train one model, for the tests of them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHILD = "import sys\nfrom jaxgen.__main__ import main\n{before}\nsys.exit(main())"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def environment() -> dict[str, str]:
    """That of this process, of which a child inherits no place among others."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def command(*options: object, before: str = "") -> list[str]:
    """`jaxgen train`, with something done before."""
    code = CHILD.format(before=before)
    return [sys.executable, "-c", code, "train", *map(str, options)]


class Gang:
    """So many processes, each with what it writes in a file."""

    def __init__(
        self,
        folder: Path,
        count: int,
        *options: object,
        own: Sequence[Sequence[object]] = (),
        before: Sequence[str] = (),
    ) -> None:
        """Start them.

        Args:
            folder: Where to keep what they write.
            count: How many.
            options: Of all.
            own: Further options of each.
            before: Python that each runs first.
        """
        where = ("--distributed.coordinator", f"localhost:{free_port()}")
        self.logs = [folder / f"log-{index}" for index in range(count)]
        self.processes = []
        for index, log in enumerate(self.logs):
            place = ("--distributed.num-processes", count, "--distributed.process-id", index)
            more = own[index] if own else ()
            arguments = command(
                *(*options, *where, *place, *more), before=before[index] if before else ""
            )
            with log.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        arguments, env=environment(), cwd=ROOT, stdout=file, stderr=file
                    )
                )

    def wait(self, seconds: float = 120) -> list[int]:
        """Exit codes; all are ended where it takes longer."""
        end = time.monotonic() + seconds
        try:
            return [p.wait(max(0.1, end - time.monotonic())) for p in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def said(self, index: int) -> str:
        """What a process has written."""
        return self.logs[index].read_text()


def wait_for(path: Path, seconds: float = 60) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)
