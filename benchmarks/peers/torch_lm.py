"""PyTorch's language model training step: `nn.LSTM`, cross-entropy, clipping, Adam, stateful."""

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cases import Case, cycle


class LanguageModel(nn.Module):
    """One-hot or embedded tokens, `nn.LSTM`, a linear head."""

    def __init__(self, case: Case):
        super().__init__()
        self.vocab_size = case.V
        self.embedding = nn.Embedding(case.V, case.E) if case.E else None
        self.lstm = nn.LSTM(case.input_size(0), case.H, case.L, batch_first=True)
        self.head = nn.Linear(case.H, case.V)
        self.load(case)

    def load(self, case: Case) -> None:
        """Copy the case's parameters. The second bias is zero and frozen: jaxgen has one."""
        params = {name: torch.from_numpy(value) for name, value in case.parameters().items()}
        with torch.no_grad():
            for layer in range(case.L):
                getattr(self.lstm, f"weight_ih_l{layer}").copy_(params[f"weight_ih.{layer}"])
                getattr(self.lstm, f"weight_hh_l{layer}").copy_(params[f"weight_hh.{layer}"])
                getattr(self.lstm, f"bias_ih_l{layer}").copy_(params[f"bias.{layer}"])
                getattr(self.lstm, f"bias_hh_l{layer}").zero_().requires_grad_(False)
            self.load_head(params)
            if self.embedding is not None:
                self.embedding.weight.copy_(params["embedding"])

    def load_head(self, params: dict[str, Tensor]) -> None:
        """Copy those of the output layer."""
        self.head.weight.copy_(params["head.weight"])
        self.head.bias.copy_(params["head.bias"])

    def inputs(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens as the first layer reads them."""
        if self.embedding is None:
            return functional.one_hot(tokens, self.vocab_size).to(torch.float32)
        return self.embedding(tokens)

    def forward(
        self, tokens: Tensor, carry: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T) tokens and (h, c), each (L, B, H), to (B, T, V) logits and the next (h, c)."""
        hidden, carry = self.lstm(self.inputs(tokens), carry)
        return self.head(hidden), carry

    def loss(
        self, tokens: Tensor, targets: Tensor, carry: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The mean loss and the next carry."""
        logits, carry = self(tokens, carry)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), carry


class TorchTraining:
    """The contestant: one optimizer step a batch, the carry detached from step to step.

    Args:
        case: the fields of a `Case`.
        threads: intra-operator threads.
        mkldnn: let oneDNN run the LSTM; else ATen's own CPU kernels.
        adam: `fused`, `foreach` or `loop`.
        device: `cpu` or `cuda`.
        tf32: allow TF32 matmuls on the GPU.
        dtype: `bfloat16` and `float16` compute under `torch.autocast`; parameters stay float32.
            (float16 without the scaling of losses that a real training would need.)
    """

    case_type: type[Case] = Case
    module: type[LanguageModel] = LanguageModel

    def __init__(
        self,
        case: dict[str, Any],
        threads: int = 1,
        mkldnn: bool = True,
        adam: str = "fused",
        device: str = "cpu",
        tf32: bool = False,
        dtype: str = "float32",
        pool: int = 16,
    ):
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = mkldnn
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        self.case = self.case_type(**case)
        self.adam = adam
        self.dtype = getattr(torch, dtype)
        self.device = torch.device(device)
        windows = torch.from_numpy(self.case.batches(pool)).long().to(self.device)
        self.batches = [(w[:, :-1].contiguous(), w[:, 1:].contiguous()) for w in windows]
        self.reset()

    def reset(self) -> None:
        """Back to the starting parameters, a zero carry and the first batch."""
        case = self.case
        self.model = self.module(case).to(self.device)
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.params,
            lr=case.learning_rate,
            fused=self.adam == "fused",
            foreach=self.adam == "foreach",
        )
        zeros = torch.zeros(case.L, case.B, case.H, device=self.device)
        self.carry = (zeros, zeros)
        self.stream = cycle(self.batches)

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=half):
            loss, (h, c) = self.model.loss(inputs, targets, self.carry)
        loss.backward()
        nn.utils.clip_grad_norm_(self.params, self.case.clip_norm)
        self.optimizer.step()
        self.carry = (h.detach(), c.detach())
        return loss.detach()

    def losses(self, steps: int) -> list[float]:
        """Losses of the first steps, each before its update."""
        self.reset()
        return [self.step(*batch).item() for batch in islice(self.stream, steps)]

    def run(self, steps: int) -> None:
        """Train and wait for the end."""
        for batch in islice(self.stream, steps):
            self.step(*batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        """The device's peak memory."""
        cuda = self.device.type == "cuda"
        return {"peak_bytes": torch.cuda.max_memory_allocated()} if cuda else {}
