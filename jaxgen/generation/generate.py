"""`generate`: sample from any recurrent model in one compiled loop."""

from functools import partial
from typing import Any, NamedTuple

from jaxgen.errors import UserError
from jaxgen.generation.checks import check_at_least_one, check_inputs, check_key, row_keys
from jaxgen.generation.decoding import (
    DecodeState,
    PrefillFn,
    StepFn,
    can_end,
    decode,
    init_state,
    prefill,
)
from jaxgen.generation.one_kernel import jit_with_fused_loop
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int, PyTree


class GenerateOutput(NamedTuple):
    """Generated texts and the state to continue from; see `DecodeOutput` and `DecodeState`."""

    tokens: Int[Array, "B N"]
    lengths: Int[Array, "B"]
    finished: Bool[Array, "B"]
    logprobs: Float[Array, "B N"] | None
    top_tokens: Int[Array, "B N n"] | None
    top_logprobs: Float[Array, "B N n"] | None
    state: DecodeState
    """`decode(step_fn, params, out.state, ...)` continues as one longer call would have."""

    @property
    def carry(self) -> PyTree:
        """The model's state after all tokens but the last one of each row."""
        return self.state.carry

    @property
    def last_tokens(self) -> Int[Array, "B"]:
        """The last token of each row: the one-token prompt that continues from `carry`."""
        return self.state.token


def generate(
    step_fn: StepFn,
    params: PyTree,
    carry: PyTree,
    prompt_tokens: Any,
    prompt_lengths: Any,
    key: Any,
    sampling: SamplingParams | None = None,
    *,
    max_new_tokens: int,
    prefill_fn: PrefillFn | None = None,
    bos_id: int | None = None,
    pad_id: int = 0,
    num_logprobs: int | None = 0,
    early_exit: bool = True,
) -> GenerateOutput:
    """Sample a text for each row, in one compiled program that any transformation may enclose.

    Row i depends on its own key, prompt, carry and settings alone. Without a stop token the loop is
    a `scan` of `max_new_tokens` steps; with one it is a `while_loop` that ends with the last row.
    A row whose logits have no softmax (NaN or +inf among them) ends there, with token -1 and
    log-probability NaN; its length counts the tokens before.

    Args:
        step_fn: `step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])`. If it has a method
            `prepare`, the loop gets `prepare(params)`, computed once; if it has a property
            `head_first`, rare tokens are scored where they matter (`jaxgen.generation.head_first`).
        params: the model's parameters, any pytree.
        carry: the state before the prompt. Each leaf has the batch first, or is a scalar that all
            rows share (and that finished rows therefore do not hold back).
        prompt_tokens: Int[B, P], right-padded.
        prompt_lengths: Int[B], real tokens of each row; None: all P. A row of length 0 starts from
            `bos_id` (where lengths are traced and there is no `bos_id`: from its first column).
        key: an int seed or a jax key, folded with the row number; or one key a row.
        sampling: see `SamplingParams`; default: plain sampling at temperature 1.
        max_new_tokens: static.
        prefill_fn: `prefill(params, carry, tokens[B, T], mask[B, T]) -> (carry, logits[B, T, V])`
            reads a prompt in one pass, masked steps leaving the carry alone. Without it the prompt
            is read by a scan of `step_fn`.
        bos_id: what an empty prompt starts from.
        pad_id: fills a finished row.
        num_logprobs: None for no log-probabilities, 0 for those of the chosen tokens, n for the n
            most likely tokens at each place as well.
        early_exit: False runs a `scan` of all steps where rows may stop early, too: what reverse
            mode (`jax.grad`) needs. The result is the same.

    Raises:
        UserError: for a setting out of its range or not of the batch's size, a prompt without a
            token to start from, or a `step_fn` or `carry` that breaks its contract; on the way
            back of reverse mode, where rows may stop early and `early_exit` is True.
    """
    sampling = SamplingParams() if sampling is None else sampling
    check_at_least_one(max_new_tokens=max_new_tokens)
    tokens, lengths, vocab_size = check_inputs(
        step_fn, params, carry, prompt_tokens, prompt_lengths, bos_id
    )
    batch_size = tokens.shape[0]
    sampling.check(batch_size, vocab_size)
    if num_logprobs is not None and not 0 <= num_logprobs <= vocab_size:
        raise UserError(
            f"`num_logprobs` must be in [0, {vocab_size}], got {num_logprobs}; "
            "None gives no log-probabilities"
        )
    return _generate(
        params,
        carry,
        tokens,
        lengths,
        check_key(key, batch_size),
        sampling,
        step_fn=step_fn,
        prefill_fn=prefill_fn,
        options=_Options(max_new_tokens, pad_id, num_logprobs, can_end(sampling), early_exit),
    )


class _Options(NamedTuple):
    """What the program is compiled for, beside the model and the shapes: arguments of `decode`."""

    max_new_tokens: int
    pad_id: int
    num_logprobs: int | None
    ends: bool
    early_exit: bool


@partial(jit_with_fused_loop, static_argnames=("step_fn", "prefill_fn", "options"))
def _generate(
    params: PyTree,
    carry: PyTree,
    tokens: Array,
    lengths: Array,
    key: Array,
    sampling: SamplingParams,
    *,
    step_fn: StepFn,
    prefill_fn: PrefillFn | None,
    options: _Options,
) -> GenerateOutput:
    window = tokens.shape[1] + options.max_new_tokens
    keys = row_keys(key, tokens.shape[0])
    state = init_state(step_fn, params, carry, tokens[:, 0], sampling, window)
    state = prefill(step_fn, params, state, tokens, lengths, prefill_fn, fresh=True)
    state, output = decode(step_fn, params, state, keys, sampling, **options._asdict())
    return GenerateOutput(
        output.tokens,
        state.length,
        state.finished,
        output.logprobs,
        output.top_tokens,
        output.top_logprobs,
        state,
    )
