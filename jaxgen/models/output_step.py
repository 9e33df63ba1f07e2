"""The output layer in a decoding step: its parameters arranged once, the tails left for later."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxgen.models.token_output import TokenOutput
from jaxgen.nn.adaptive_softmax import adaptive_params
from jaxgen.ops.adaptive_softmax import AdaptiveParams, adaptive_logprobs, head_logprobs
from jaxgen.ops.clusters import Clusters
from jaxgen.types import Array, Float, Int, PyTree


class FullOutput(NamedTuple):
    """Parameters of a full softmax."""

    kernel: Float[Array, "A V"]
    bias: Float[Array, "V"]


Output = FullOutput | AdaptiveParams


def prepare_output(model: TokenOutput, params: PyTree) -> Output:
    """The parameters of the output layer, its matrices in the type that the model computes in."""
    embedding = params["embedding"] if model.tied else None
    if model.clusters is None:
        kernel = params["output_kernel"] if embedding is None else embedding.T
        return FullOutput(kernel.astype(model.dtype), params["output_bias"])
    output = adaptive_params(params["output"], model.clusters, embedding)
    return jax.tree.map(lambda x: x.astype(model.dtype) if x.ndim == 2 else x, output)


def next_logits(
    output: Output, clusters: Clusters | None, hidden: Float[Array, "B A"]
) -> Float[Array, "B V"]:
    """Scores of the next token, float32; of an adaptive softmax log-probabilities."""
    if isinstance(output, AdaptiveParams):
        assert clusters is not None
        return adaptive_logprobs(output, clusters, hidden)
    return jnp.matmul(hidden, output.kernel, preferred_element_type=jnp.float32) + output.bias


@runtime_checkable
class HiddenStep(Protocol):
    """A step function that can stop below its output layer."""

    def hidden(
        self, params: Any, carry: Any, tokens: Int[Array, "B"]
    ) -> tuple[Any, Float[Array, "B A"]]:
        """The new carry and what the output layer reads, given prepared parameters."""
        ...


@dataclass(frozen=True)
class HeadFirstStep:
    """The step of a model with an adaptive softmax, which leaves the tails for later.

    See `jaxgen.generation.head_first`. Prepared parameters have the layer's as `output`.
    """

    step_fn: HiddenStep
    clusters: Clusters

    def __call__(
        self, params: Any, carry: Any, tokens: Int[Array, "B"]
    ) -> tuple[Any, Float[Array, "B S"], Float[Array, "B A"]]:
        """The new carry, the head's log-probabilities, and what `complete` needs of each row."""
        carry, hidden = self.step_fn.hidden(params, carry, tokens)
        return carry, head_logprobs(params.output, hidden), hidden

    def complete(
        self, params: Any, head: Float[Array, "N S"], hidden: Float[Array, "N A"]
    ) -> Float[Array, "N V"]:
        """Log-probabilities of all tokens, of any rows."""
        return adaptive_logprobs(params.output, self.clusters, hidden, head)
