"""Where one of the processes of a training stands: given at each start, never kept with a run."""

from dataclasses import dataclass

from jaxgen.errors import UserError


@dataclass(frozen=True)
class Distributed:
    """Several processes that train one model (docs/scaling.md)."""

    coordinator: str | None = None
    """host:port of process 0, or auto: SLURM, Open MPI, Kubernetes and Cloud TPU say it."""
    num_processes: int | None = None
    """How many processes train together."""
    process_id: int | None = None
    """Number of this one, counted from 0."""
    connect_seconds: float = 300.0
    """How long to wait until all processes are there."""
    timeout_seconds: float = 600.0
    """How long to wait for another process in the training; evaluations must take less."""

    def check(self) -> None:
        """Check the values.

        Raises:
            UserError: One is impossible, or goes with another that is missing.
        """
        count, index = self.num_processes, self.process_id
        if self.coordinator is None:
            for name in ("num_processes", "process_id"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"`distributed.{name}` needs `distributed.coordinator`, the host:port of "
                        "process 0; give it to every process, or leave both out"
                    )
            return
        if self.coordinator != "auto":
            _check_address(self.coordinator)
            for name in ("num_processes", "process_id"):
                if getattr(self, name) is None:
                    raise UserError(
                        f"`distributed.coordinator` {self.coordinator} needs "
                        f"`distributed.{name}` too; give it, or let the scheduler say all three "
                        "with --distributed.coordinator auto"
                    )
        if count is not None and count < 1:
            raise UserError(
                f"`distributed.num_processes` must be at least 1, got {count}; give how many "
                "processes train together"
            )
        if index is not None and (index < 0 or (count is not None and index >= count)):
            most = "" if count is None else f" to {count - 1} of {count} processes"
            raise UserError(
                f"`distributed.process_id` must be from 0{most}, got {index}; number the "
                "processes from 0"
            )
        for name in ("connect_seconds", "timeout_seconds"):
            if not 1 <= getattr(self, name) <= 10**6:
                raise UserError(
                    f"`distributed.{name}` must be from 1 to 1000000 seconds, got "
                    f"{getattr(self, name)}; leave it out for {getattr(type(self), name):g}"
                )


def _check_address(address: str) -> None:
    """UserError where an address is not host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"`distributed.coordinator` must be auto or host:port of process 0, got {address}; "
            f"for example {address.split(':')[0] or 'localhost'}:12345"
        )
