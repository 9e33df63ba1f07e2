"""The adaptive softmax as a Flax module: its parameters, tied to an embedding where sizes allow."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.ops.adaptive_softmax import (
    AdaptiveParams,
    Tail,
    adaptive_logprobs,
    adaptive_nll,
    rows_by_cluster,
)
from jaxgen.ops.clusters import Clusters, tail_sizes
from jaxgen.ops.output_loss import BLOCK_LOGITS, OutputLoss, loss_of_logits
from jaxgen.types import Array, Bool, Float, Int


class AdaptiveSoftmax(nn.Module):
    """Hidden states in, log-probabilities of tokens out, by clusters; see `jaxgen.ops`.

    Parameters, with a shortlist of C tokens and K tails, tail i of n tokens reading D numbers:
    `head_kernel` [H, C + K] and `head_bias` [C + K]; `tail_i_projection` [H, D], `tail_i_kernel`
    [D, n], `tail_i_bias` [n]. Tied, the embedding's rows are the kernel of the shortlist, so that
    `head_kernel` is [H, K], and those of each tail that reads H numbers, which then has no
    `tail_i_kernel`.
    """

    clusters: Clusters
    size: int
    """Numbers that the layer reads, H."""
    divisor: float = 4.0
    """Tail i reads H over `divisor` to the power of i + 1 numbers."""
    tied: bool = False

    def setup(self) -> None:
        """Declare the parameters (Flax calls this)."""
        shortlist, *sizes = self.clusters.sizes
        glorot, zeros = nn.initializers.glorot_uniform(), nn.initializers.zeros
        scored = len(sizes) + (0 if self.tied else shortlist)
        tree = {"head_kernel": self.param("head_kernel", glorot, (self.size, scored))}
        tree["head_bias"] = self.param("head_bias", zeros, (shortlist + len(sizes),))
        reads = tail_sizes(self.size, self.divisor, len(sizes))
        for tail, (read, count) in enumerate(zip(reads, sizes, strict=True)):
            name = f"tail_{tail}_"
            tree[f"{name}projection"] = self.param(f"{name}projection", glorot, (self.size, read))
            if not self.tied or read != self.size:
                tree[f"{name}kernel"] = self.param(f"{name}kernel", glorot, (read, count))
            tree[f"{name}bias"] = self.param(f"{name}bias", zeros, (count,))
        self.tree = tree

    def __call__(
        self, hidden: Float[Array, "N H"], embedding: Float[Array, "V H"] | None = None
    ) -> Float[Array, "N V"]:
        """Log-probabilities of all tokens, in the order of their ids; `embedding` where tied."""
        params = adaptive_params(self.tree, self.clusters, embedding)
        return adaptive_logprobs(params, self.clusters, hidden)

    def nll(
        self,
        hidden: Float[Array, "N H"],
        targets: Int[Array, "N"],
        real: Bool[Array, "N"] | None = None,
        embedding: Float[Array, "V H"] | None = None,
    ) -> Float[Array, "N"]:
        """Negative log-likelihood of each target, see `jaxgen.ops.adaptive_softmax`."""
        params = adaptive_params(self.tree, self.clusters, embedding)
        return adaptive_nll(params, self.clusters, hidden, targets, real)

    def losses(
        self,
        hidden: Float[Array, "N H"],
        targets: Int[Array, "N"],
        weights: Float[Array, "N"],
        embedding: Float[Array, "V H"] | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> OutputLoss:
        """Cross-entropies among all tokens, as `jaxgen.ops.output_loss` has them: at full cost."""
        params = adaptive_params(self.tree, self.clusters, embedding)
        logprobs_of = partial(adaptive_logprobs, params, self.clusters)
        block_rows = max(1, BLOCK_LOGITS // len(self.clusters.ids))
        return loss_of_logits(
            logprobs_of,
            hidden,
            targets,
            weights,
            label_smoothing=label_smoothing,
            block_rows=block_rows,
        )


def adaptive_params(
    tree: Mapping[str, Any], clusters: Clusters, embedding: Float[Array, "V H"] | None = None
) -> AdaptiveParams:
    """The parameters of an `AdaptiveSoftmax`, by name, as its functions take them.

    Args:
        tree: of the module.
        clusters: of its vocabulary.
        embedding: that it is tied to; None where it is not.

    Raises:
        UserError: the embedding is of another vocabulary, or has rows of another size.
    """
    kernel = tree["head_kernel"]
    rest: list[Array] = []
    if embedding is not None:
        wanted = (len(clusters.ids), kernel.shape[0])
        if embedding.shape != wanted:
            raise UserError(
                f"`tied` needs an embedding of shape {list(wanted)}, a row for each token as long "
                f"as what the output layer reads, got {list(embedding.shape)}; match the sizes, or "
                "turn it off"
            )
        shortlist, *rest = rows_by_cluster(embedding, clusters)
        kernel = jnp.concatenate([shortlist, kernel.T]).T
    tails = []
    for number in range(len(clusters.sizes) - 1):
        projection, bias = (tree[f"tail_{number}_{name}"] for name in ("projection", "bias"))
        scores = tree.get(f"tail_{number}_kernel")
        rows = rest[number] if scores is None else None
        tails.append(Tail(projection, scores, bias, rows))
    return AdaptiveParams(kernel, tree["head_bias"], tuple(tails))
