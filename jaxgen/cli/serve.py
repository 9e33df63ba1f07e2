"""`jaxgen serve`: trained models over HTTP."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import DisallowNone, Positional, arg

from jaxgen.cli.options import Checkpoint, Flag, said
from jaxgen.errors import UserError
from jaxgen.files import reason

if TYPE_CHECKING:
    from jaxgen.serving.options import ServeOptions

KeyFile = Annotated[Path | None, DisallowNone, arg(metavar="FILE", help_behavior_hint="")]
Runs = Positional[Annotated[tuple[str, ...], arg(metavar="RUN", help_behavior_hint="")]]
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True)
class Serve:
    """Serve trained models over HTTP, with OpenAI's API for those that write.

    Models are loaded once and compiled at the start; GET /readyz says when that is done. Needs
    pip install 'jaxgen[serve]'.
    """

    run: Runs
    """Run directories or exports. Each is served under the name of its directory, or another:
    NAME=RUN."""
    host: Annotated[str, said] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is all of this machine's."""
    port: Annotated[int, said] = 8000
    """Port to listen on; 0 takes a free one."""
    slots: Annotated[int, said] = 64
    """Texts that a model writes at the same time."""
    queue: Annotated[int, said] = 256
    """Requests that wait for a slot at most; more are refused with 429."""
    queue_tokens: Annotated[int, said] = 1_000_000
    """Tokens that these may still read and write in all; likewise."""
    max_prompt_tokens: Annotated[int, said] = 8192
    """Longest prompt, in tokens."""
    max_tokens: Annotated[int, said] = 4096
    """Longest text, in tokens."""
    max_choices: Annotated[int, said] = 128
    """Texts of one request at most: its prompts times n."""
    max_body_bytes: Annotated[int, said] = 1 << 20
    """Longest body of a request."""
    request_timeout: Annotated[float, said] = 300.0
    """Seconds after which a request is given up."""
    grace: Annotated[float, said] = 30.0
    """Seconds that requests in flight have to finish after SIGTERM or Ctrl-C."""
    api_key_file: KeyFile = None
    """File whose only line clients must send as Authorization: Bearer KEY."""
    session_key_file: KeyFile = None
    """File whose only line signs session handles; servers with the same one take each other's
    (default: a random key, so that handles end with the process)."""
    allow_training: Flag = False
    """Let clients train models, with any file that this process may read; one at a time."""
    training_runs: Annotated[Path, said] = Path("runs")
    """Where the runs of these trainings lie."""
    checkpoint: Checkpoint = None
    """Which parameters of the runs (default: the best, or the last where none was evaluated)."""

    def __call__(self) -> None:
        """Load and serve."""
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise UserError(
                f"`serve` needs {', '.join(missing)}; install with: pip install 'jaxgen[serve]'"
            )
        if not self.run and not self.allow_training:
            raise UserError("`serve` needs a run directory or an export; name one or several")

        from jaxgen.serving.models import named_runs

        runs = named_runs(self.run)
        options = self._options()

        from jaxgen.serving.app import create_app
        from jaxgen.serving.models import Models, load_model
        from jaxgen.serving.server import address_of, bind, serve

        with bind(self.host, self.port) as listener:  # taken before time is spent on loading
            models = Models()
            for name, path in runs.items():
                models.add(load_model(name, path, options, self.checkpoint))
            where = f"{address_of(listener)} (model {', '.join(runs) or 'none yet'})"
            print(f"listening on {where}", file=sys.stderr, flush=True)
            serve(create_app(models, options), listener)

    def _options(self) -> "ServeOptions":
        from jaxgen.serving.options import ServeOptions

        same = (
            *("slots", "queue", "queue_tokens", "max_prompt_tokens", "max_tokens", "max_choices"),
            *("max_body_bytes", "request_timeout", "grace", "allow_training", "training_runs"),
        )
        values = {name: getattr(self, name) for name in same}
        if self.api_key_file is not None:
            values["api_key"] = _read_key("api", self.api_key_file)
        if self.session_key_file is not None:
            values["session_key"] = _read_key("session", self.session_key_file).encode()
        return ServeOptions(**values)


def _read_key(name: Literal["api", "session"], path: Path) -> str:
    """The only line of a file; UserError where that is not what it holds."""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"--{name}-key-file {path} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"--{name}-key-file {path} must hold one line of text") from None
    if not key or not key.isprintable() or not key.isascii():
        raise UserError(
            f"--{name}-key-file {path} must hold one line of printable ASCII; make one with: "
            'python -c "import secrets; print(secrets.token_hex())"'
        )
    return key
