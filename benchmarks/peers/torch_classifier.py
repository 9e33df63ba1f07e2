"""PyTorch's classifier: `nn.LSTM` over packed or padded texts, pooled, one logit, Adam."""

from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.cases import cycle
from benchmarks.classifier_cases import ClassifierCase, padded
from benchmarks.peers.torch_layers import TorchEpochs, at_ends, load_layer, set_up, turned


class Classifier(nn.Module):
    """Tokens (B, T) and lengths (B,) to the logit (B,) of label 1.

    Args:
        case: shapes and parameters.
        packed: hand `nn.LSTM` packed sequences, which skip the padding. Else it reads the padding
            too, and what it says there is left out: one direction by looking at the last real
            step; the other by turning each text around within its length first.
    """

    def __init__(self, case: ClassifierCase, packed: bool):
        super().__init__()
        self.case = case
        self.packed = packed
        self.embedding = nn.Embedding(case.V, case.E)
        if packed:
            lstm = nn.LSTM(case.E, case.H, batch_first=True, bidirectional=case.bidirectional)
            self.lstms = nn.ModuleList([lstm])
        else:
            own = [nn.LSTM(case.E, case.H, batch_first=True) for _ in range(case.directions)]
            self.lstms = nn.ModuleList(own)
        self.head = nn.Linear(case.features, 1)
        self.load()

    def load(self) -> None:
        """Copy the case's parameters."""
        params = {name: torch.from_numpy(x) for name, x in self.case.parameters().items()}
        for way in range(self.case.directions):
            names = (f"weight_ih.{way}", f"weight_hh.{way}", f"bias.{way}")
            lstm: Any = self.lstms[0 if self.packed else way]
            load_layer(lstm, params, names, "_reverse" if self.packed and way else "")
        with torch.no_grad():
            self.embedding.weight.copy_(params["embedding"])
            self.head.weight.copy_(params["head.weight"])
            self.head.bias.copy_(params["head.bias"])

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        embedded = self.embedding(tokens)
        hidden, last = (self.read_packed if self.packed else self.read_padded)(embedded, lengths)
        return self.head(self.pooled(hidden, last, lengths))[:, 0]

    def read_packed(self, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, D*H), zero beyond a text's end, and the last states (B, D*H)."""
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        outputs, (h, _) = self.lstms[0](packed)
        last = h.transpose(0, 1).flatten(1)
        if self.case.pooling == ("last",):
            return embedded, last  # the outputs need not be unpacked
        return pad_packed_sequence(outputs, batch_first=True, total_length=embedded.shape[1])[
            0
        ], last

    def read_padded(self, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The same, with anything beyond a text's end."""
        hidden = [self.lstms[0](embedded)[0]]
        last = [at_ends(hidden[0], lengths)]
        if self.case.bidirectional:
            outputs = self.lstms[1](turned(embedded, lengths))[0]
            last.append(at_ends(outputs, lengths))
            hidden.append(turned(outputs, lengths))
        return torch.cat(hidden, -1), torch.cat(last, -1)

    def pooled(self, hidden: Tensor, last: Tensor, lengths: Tensor) -> Tensor:
        """What the head reads (B, features)."""
        parts = []
        mask = (torch.arange(hidden.shape[1]) < lengths[:, None])[..., None]
        for kind in self.case.pooling:
            if kind == "last":
                parts.append(last)
            elif kind == "mean":
                parts.append(hidden.masked_fill(~mask, 0).sum(1) / lengths[:, None])
            else:
                parts.append(hidden.masked_fill(~mask, -torch.inf).amax(1))
        return torch.cat(parts, -1)


class TorchTraining(TorchEpochs):
    """The contestant: a unit of `run` is one epoch of the case's plan, see `TorchEpochs`.

    Args:
        case: the fields of a `ClassifierCase`.
        packed: see `Classifier`.
        threads: intra-operator threads.
        mkldnn: let oneDNN run the LSTM; else ATen's own CPU kernels.
    """

    def __init__(
        self, case: dict[str, Any], packed: bool = True, threads: int = 1, mkldnn: bool = True
    ):
        set_up(threads, mkldnn)
        self.case = ClassifierCase(**case)
        batches = [
            (torch.from_numpy(t).long(), torch.from_numpy(n).long(), torch.from_numpy(y).float())
            for t, n, y in self.case.batches()
        ]
        super().__init__(
            partial(Classifier, self.case, packed), _loss, batches, self.case.learning_rate
        )


def _loss(model: nn.Module, tokens: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(model(tokens, lengths), labels)


class TorchPrediction:
    """The contestant: a unit of `run` is one call on B texts, to probabilities on the host.

    Args:
        case: the fields of a `ClassifierCase`.
        variant: `packed`, `padded` (to the plan's lengths), `exact` (padded to the longest text of
            the call), and this by `torch.jit` (`traced`) or `torch.compile` (`compiled`).
        threads: intra-operator threads.
        mkldnn: let oneDNN run the LSTM.
    """

    def __init__(
        self,
        case: dict[str, Any],
        variant: str = "packed",
        threads: int = 1,
        mkldnn: bool = True,
    ):
        set_up(threads, mkldnn)
        self.case = ClassifierCase(**case)
        self.calls = [
            self.call_of(tokens, lengths, trim=variant in ("exact", "traced", "compiled"))
            for tokens, lengths, _ in self.case.batches()
        ]
        self.model: Any = Classifier(self.case, variant == "packed").requires_grad_(False).eval()
        if variant == "traced":
            with torch.inference_mode():
                self.model = torch.jit.freeze(torch.jit.trace(self.model, self.calls[0]))
        elif variant == "compiled":
            self.model = torch.compile(self.model, dynamic=True)
        self.stream = cycle(self.calls)
        self.run(len(self.calls))

    def call_of(self, tokens: np.ndarray, lengths: np.ndarray, trim: bool) -> tuple[Tensor, Tensor]:
        """Arguments of one call."""
        texts = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
        rows = padded(texts, lengths.max() if trim else tokens.shape[1])
        return torch.from_numpy(rows).long(), torch.from_numpy(lengths).long()

    def probabilities(self, steps: int) -> list[list[float]]:
        """Of label 1, (B,) a call, of the plan's first calls."""
        with torch.inference_mode():
            return [torch.sigmoid(self.model(*call)).tolist() for call in self.calls[:steps]]

    def run(self, steps: int) -> None:
        """Make so many calls, one after the other."""
        with torch.inference_mode():
            for call in islice(self.stream, steps):
                torch.sigmoid(self.model(*call)).numpy()
