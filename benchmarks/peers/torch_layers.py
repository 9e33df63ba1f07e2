"""What PyTorch's contestants share: epochs, the loading of a layer, texts turned around."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import cycle


def set_up(threads: int, mkldnn: bool) -> None:
    torch.set_num_threads(threads)
    torch.backends.mkldnn.enabled = mkldnn


def load_layer(
    lstm: nn.LSTM, weights: Mapping[str, Any], names: tuple[str, str, str], suffix: str = ""
) -> None:
    """Copy a layer's parameters. The second bias is zero and frozen: jaxgen has one.

    Args:
        lstm: of one layer; what it reads may be wider than the weights, by columns at the end.
        weights: tensors by name.
        names: of the weights of its inputs (4H, E), of its hidden states (4H, H), and of its bias.
        suffix: `_reverse` for the second direction.
    """
    inputs, recurrent, bias = (weights[name] for name in names)
    with torch.no_grad():
        getattr(lstm, f"weight_ih_l0{suffix}")[:, : inputs.shape[1]].copy_(inputs)
        getattr(lstm, f"weight_hh_l0{suffix}").copy_(recurrent)
        getattr(lstm, f"bias_ih_l0{suffix}").copy_(bias)
        getattr(lstm, f"bias_hh_l0{suffix}").zero_().requires_grad_(False)


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Each text of x (B, T, D) from its end, the padding somewhere after it; its own inverse."""
    places = (lengths[:, None] - 1 - torch.arange(x.shape[1])) % x.shape[1]
    return x.gather(1, places[..., None].expand_as(x))


def at_ends(x: Tensor, lengths: Tensor) -> Tensor:
    """What stands at the last real step (B, D) of x (B, T, D)."""
    return x.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]


class TorchEpochs:
    """Training whose unit of `run` is one epoch, its batches ready in memory.

    Args:
        make_model: the model with its starting parameters.
        loss_of: of the model and a batch's tensors.
        batches: of an epoch.
        learning_rate: of Adam.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        loss_of: Callable[..., Tensor],
        batches: Sequence[tuple[Tensor, ...]],
        learning_rate: float,
    ):
        self.make_model, self.loss_of, self.batches = make_model, loss_of, batches
        self.learning_rate = learning_rate
        self.reset()

    def reset(self) -> None:
        """Back to the starting parameters."""
        self.model = self.make_model()
        params = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(params, lr=self.learning_rate, fused=True)

    def step(self, *batch: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(self.model, *batch)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def losses(self, steps: int) -> list[float]:
        """Losses of the epoch's first steps, each before its update."""
        self.reset()
        return [self.step(*batch).item() for batch in islice(cycle(self.batches), steps)]

    def run(self, steps: int) -> None:
        """Train for so many epochs."""
        for _ in range(steps):
            for batch in self.batches:
                self.step(*batch)
