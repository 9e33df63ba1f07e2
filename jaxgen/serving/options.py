"""What an operator sets of the service: limits, keys, and how long things may take."""

import math
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from jaxgen.errors import UserError

_COUNTS = (
    *("slots", "queue", "queue_tokens", "max_prompt_tokens", "max_tokens", "max_choices"),
    "max_body_bytes",
)


@dataclass(frozen=True)
class ServeOptions:
    """Settings of one server process.

    Raises:
        UserError: a number is out of its range, or a key is too short.
    """

    slots: int = 64
    """Texts that a model writes at the same time."""
    queue: int = 256
    """Requests that wait at most, of a model."""
    queue_tokens: int = 1_000_000
    """Tokens that accepted requests of a model may still read and write, at most."""
    max_prompt_tokens: int = 8192
    """Longest prompt, in tokens of the model."""
    max_tokens: int = 4096
    """Longest text that a request may ask for, in tokens."""
    max_choices: int = 128
    """Texts of one request: its prompts times `n`, or times `best_of`."""
    max_body_bytes: int = 1 << 20
    """Longest body of a request."""
    request_timeout: float = 300.0
    """Seconds after which a request is given up."""
    grace: float = 30.0
    """Seconds that requests in flight have left when the server is told to stop."""
    api_key: str | None = field(default=None, repr=False)
    """What clients must send as `Authorization: Bearer KEY`; None asks for nothing."""
    session_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Signs session handles; servers that share it take each other's."""
    allow_training: bool = False
    """Whether clients may train models."""
    training_runs: Path = Path("runs")
    """Where the runs of these trainings lie."""

    def __post_init__(self) -> None:
        """Check the numbers and keys."""
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name, lowest in (("request_timeout", "above 0"), ("grace", "0 or more")):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and lowest == "above 0"):
                raise UserError(
                    f"`{name}` must be a number of seconds, {lowest}, got {value}; use 30"
                )
        if self.training_runs.exists() and not self.training_runs.is_dir():
            raise UserError(
                f"`training_runs` must be a directory, got the file {self.training_runs}; name one"
            )
        if self.api_key is not None and not self.api_key.strip():
            raise UserError("`api_key` must not be empty; leave it out to let everyone in")
        if len(self.session_key) < 16:
            raise UserError(
                f"`session_key` must have at least 16 bytes, got {len(self.session_key)}; "
                'make one with: python -c "import secrets; print(secrets.token_hex())"'
            )
