"""A language model of random parameters behind the HTTP service, in a process of its own."""

import string
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import uvicorn

from benchmarks.cases import Case
from benchmarks.jaxgen_lm import model_of, params_of
from benchmarks.load_client import NAME
from jaxgen.config import TokenizerConfig
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.generation.generate import generate
from jaxgen.generation.sampling import SamplingParams
from jaxgen.generation.text import TextModel
from jaxgen.models.decoding import initial_carry_of, step_fn_of
from jaxgen.models.language_model import prefill_fn_of
from jaxgen.serving.app import create_app
from jaxgen.serving.models import Models, ServedModel, serve_text_model
from jaxgen.serving.options import ServeOptions


def listen(app: Any, is_ready: Callable[[], bool] = lambda: True) -> tuple[uvicorn.Server, str]:
    """Serve an application on a free port, in a thread, and wait until it is ready.

    Returns:
        The server, which ends when `should_exit` is set, and its address.
    """
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    while not (server.started and is_ready()):
        time.sleep(0.01)
    return server, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


class Served:
    """The contestant: a server on a free port, and the plain sampler of the same model.

    Args:
        case: the fields of a `Case`; its vocabulary is replaced by that of the tokenizer.
        **options: of `ServeOptions`.
    """

    def __init__(self, case: dict[str, Any], **options: Any):
        tokenizer = build_tokenizer(TokenizerConfig(kind="char"), [string.printable])
        self.case = Case(**{**case, "V": tokenizer.vocab_size})
        model = model_of(self.case)
        self.step_fn, self.params = step_fn_of(model), params_of(self.case)
        self.initial_carry = initial_carry_of(model)
        lm = TextModel(
            self.params, None, tokenizer, self.step_fn, prefill_fn_of(model), self.initial_carry
        )
        self.served = ServedModel(NAME, "language_model", lm)
        limits = ServeOptions(**options)
        serve_text_model(self.served, limits)
        models = Models()
        models.add(self.served)
        self.server, self._address = listen(create_app(models, limits), self._is_ready)

    def _is_ready(self) -> bool:
        if self.served.failure is not None:
            raise self.served.failure
        return self.served.is_ready

    def address(self) -> str:
        """Where it listens."""
        return self._address

    def raw(self, batch: int, tokens: int, calls: int, seed: int = 0) -> int:
        """The plain sampler: so many calls of `generate`; how many tokens it wrote."""
        carry = self.initial_carry(self.params, batch, None)
        prompt = np.zeros((batch, 1), np.int32)
        for call in range(calls):
            out = generate(
                self.step_fn,
                self.params,
                carry,
                prompt,
                None,
                seed + call,
                SamplingParams(),
                max_new_tokens=tokens,
            )
            np.asarray(jax.block_until_ready(out.tokens))
        return batch * tokens * calls

    def counters(self) -> dict[str, Any]:
        """What the engine counts now."""
        found = self.served.engine.metrics()
        return {
            "active": found.active,
            "waiting": found.waiting,
            "tokens_ahead": found.tokens_ahead,
            "generated_tokens": found.generated_tokens,
            "slot_steps": found.slot_steps,
        }

    def resident(self) -> int:
        """Bytes that the process holds now."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096

    def stop(self) -> None:
        self.server.should_exit = True
