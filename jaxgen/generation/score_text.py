"""Log-probabilities of given tokens after a state, in the padded programs of a session."""

from collections.abc import Sequence

import numpy as np

from jaxgen.generation import programs
from jaxgen.generation.carry import PromptState
from jaxgen.generation.runner import Runner
from jaxgen.generation.score import score_checked
from jaxgen.types import Float


def score_rows(
    runner: Runner, state: PromptState, texts: Sequence[np.ndarray]
) -> list[Float[np.ndarray, "N"]]:
    """Log-probability in nats of each token of each text, one a row of the state."""
    state = programs.pad_tree(state, programs.batch_bucket(len(texts)))
    token = np.asarray(state.token)
    rows = [np.append(token[row], ids) for row, ids in enumerate(texts)]
    parts, carry = [], state.carry
    model = runner.model
    for segment in programs.prompt_segments(rows, len(token), overlap=1):
        logprobs, carry = score_checked(
            runner.params, carry, *segment, step_fn=model.step_fn, prefill_fn=model.prefill_fn
        )
        parts.append(np.asarray(logprobs)[:, : int(segment[1].max()) - 1])
    scores = np.concatenate(parts, axis=1)
    return [scores[row, : len(ids)] for row, ids in enumerate(texts)]
