"""PyTorch's training step with its own adaptive softmax, and with a full one on the same tokens."""

from torch import Tensor, nn

from benchmarks.adaptive_cases import AdaptiveCase
from benchmarks.peers.torch_lm import LanguageModel, TorchTraining


class AdaptiveLanguageModel(LanguageModel):
    """`nn.LSTM` under `nn.AdaptiveLogSoftmaxWithLoss`; without `adaptive` under a linear head."""

    def load(self, case: AdaptiveCase) -> None:
        """Copy the case's parameters."""
        self.softmax = None
        if case.adaptive:
            self.head = None
            self.softmax = nn.AdaptiveLogSoftmaxWithLoss(
                case.H, case.V, list(case.cutoffs), div_value=case.divisor, head_bias=True
            )
        super().load(case)

    def load_head(self, params: dict[str, Tensor]) -> None:
        """Copy those of the output layer."""
        if self.softmax is None:
            super().load_head(params)
            return
        self.softmax.head.weight.copy_(params["head.weight"])
        self.softmax.head.bias.copy_(params["head.bias"])
        for tail, (projection, weight) in enumerate(self.softmax.tail):
            projection.weight.copy_(params[f"tail.{tail}.projection"])
            weight.weight.copy_(params[f"tail.{tail}.weight"])

    def loss(
        self, tokens: Tensor, targets: Tensor, carry: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The mean loss and the next carry."""
        if self.softmax is None:
            return super().loss(tokens, targets, carry)
        hidden, carry = self.lstm(self.inputs(tokens), carry)
        return self.softmax(hidden.flatten(0, 1), targets.flatten()).loss, carry


class TorchAdaptiveTraining(TorchTraining):
    """As `TorchTraining`, of an `AdaptiveCase`."""

    case_type = AdaptiveCase
    module = AdaptiveLanguageModel
