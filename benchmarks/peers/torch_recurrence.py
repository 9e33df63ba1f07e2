"""PyTorch's contestant in the recurrence alone: one `nn.LSTM` layer, on a GPU through cuDNN."""

from typing import Any

import torch
from torch import nn

from benchmarks.cases import Case


class TorchRecurrence:
    """The contestant: a unit of `run` is one pass over B rows of T steps.

    Args:
        case: the fields of a `Case` with E = H.
        dtype: of weights, inputs and states.
        tf32: let float32 products be made in TF32.
        device: `cpu` or `cuda`.
    """

    def __init__(
        self,
        case: dict[str, Any],
        dtype: str = "float32",
        tf32: bool = False,
        device: str = "cuda",
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        self.case = Case(**case)
        params = {k: torch.from_numpy(v) for k, v in self.case.parameters().items()}
        self.model = nn.LSTM(self.case.H, self.case.H)
        with torch.no_grad():
            self.model.weight_ih_l0.copy_(params["weight_ih.0"])
            self.model.weight_hh_l0.copy_(params["weight_hh.0"])
            self.model.bias_ih_l0.copy_(params["bias.0"])
            self.model.bias_hh_l0.zero_()
        where: dict[str, Any] = {"device": torch.device(device), "dtype": getattr(torch, dtype)}
        self.model.to(**where)
        inputs, cotangent = map(torch.from_numpy, self.case.signals())
        self.inputs = inputs.to(**where).requires_grad_()
        self.cotangent = cotangent.to(**where)
        self.choose("forward")

    def choose(self, mode: str) -> None:
        """`forward` (without a graph), or `both`."""
        self.mode = mode
        self.call()

    def call(self) -> torch.Tensor:
        if self.mode == "forward":
            with torch.no_grad():
                return self.model(self.inputs)[0]
        self.model.zero_grad(set_to_none=True)
        self.inputs.grad = None
        hidden = self.model(self.inputs)[0]
        hidden.backward(self.cotangent)
        return hidden.detach()

    def check(self) -> list[float]:
        """Mean absolute values of what one pass returns, to be held against the others'."""
        hidden = self.call().float()
        return [hidden.abs().mean().item(), hidden[-1].abs().mean().item()]

    def run(self, steps: int) -> None:
        """Make so many passes and wait for the last."""
        for _ in range(steps):
            self.call()
        if self.inputs.is_cuda:
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        """The device's peak memory."""
        return {"peak_bytes": torch.cuda.max_memory_allocated()} if self.inputs.is_cuda else {}
