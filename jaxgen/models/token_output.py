"""The output layer of modules that foretell tokens: a full softmax, or one by clusters."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.nn.adaptive_softmax import AdaptiveSoftmax
from jaxgen.ops.output_loss import OutputLoss, output_logits, output_loss
from jaxgen.types import Array, Float, Int


class TokenOutput(nn.Module):
    """What a module has by its attributes `tied`, `clusters`, `tail_divisor` and `embedding`.

    Parameters: `output_kernel` [A, V] (absent where tied) and `output_bias` [V]; with `clusters`
    those of an `AdaptiveSoftmax`, `output`, in their place, and logits are log-probabilities.
    """

    def set_up_output(self, size: int, vocab_size: int) -> None:
        """Declare the parameters of a layer that reads `size` numbers, in a module's `setup`."""
        if self.clusters is not None:
            self.adaptive = AdaptiveSoftmax(
                self.clusters, size, self.tail_divisor, self.tied, name="output"
            )
            return
        if not self.tied:
            glorot = nn.initializers.glorot_uniform()
            self.output_kernel = self.param("output_kernel", glorot, (size, vocab_size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (vocab_size,))

    def logits(self, hidden: Float[Array, "*B A"]) -> Float[Array, "*B V"]:
        """Scores of the next token, float32."""
        rows = hidden.reshape(-1, hidden.shape[-1])  # plain matrices, as in `jaxgen.nn.inputs`
        if self.clusters is not None:
            scores = self.adaptive(rows, self._tied_to())
        else:
            scores = output_logits(rows, *self.output_layer())
        return scores.reshape(*hidden.shape[:-1], scores.shape[-1])

    def output_layer(self) -> tuple[Float[Array, "A V"], Float[Array, "V"]]:
        """Kernel and bias of the logits of a full softmax."""
        return self.embedding.T if self.tied else self.output_kernel, self.output_bias

    def losses(
        self,
        hidden: Float[Array, "N A"],
        targets: Int[Array, "N"],
        weights: Float[Array, "N"],
        *,
        label_smoothing: float = 0.0,
        hits: bool = True,
    ) -> OutputLoss:
        """Cross-entropies of rows, see `output_loss`; never all logits at once.

        With `clusters` and without smoothing, rare tokens are scored where they are targets, unless
        `hits` ask for the scores of all; these are None then.
        """
        smoothed: dict[str, Any] = {"label_smoothing": label_smoothing}
        if self.clusters is None:
            return output_loss(hidden, *self.output_layer(), targets, weights, **smoothed)
        if hits or label_smoothing:
            return self.adaptive.losses(hidden, targets, weights, self._tied_to(), **smoothed)
        nll = self.adaptive.nll(hidden, targets, weights > 0, self._tied_to())
        return OutputLoss(jnp.where(weights > 0, weights * nll, 0).sum(), nll, None)

    def _tied_to(self) -> Float[Array, "V A"] | None:
        return self.embedding if self.tied else None
