"""PyTorch's stateful sampling loop, written as fast as it goes: under `inference_mode`.

Variants: `lstm` calls `nn.LSTM` on one step, `cell` a stack of `nn.LSTMCell`, `manual` spells the
cell out on a folded table of input gates; each draws by `multinomial` or by the exponential race
(argmax of p / e, one pass and no normalisation). `compiled` passes `manual` through
`torch.compile`; on CUDA `graph` captures one step and replays it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cases import Case
from benchmarks.peers.torch_lm import LanguageModel

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]


def lstm_step(model: LanguageModel) -> Step:
    """Logits (B, V) of one token (B,) by `nn.LSTM`; the state is (h, c), each (L, B, H)."""

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        logits, state = model(tokens[:, None], state)
        return logits[:, 0], state

    return step


def cell_step(model: LanguageModel, case: Case) -> Step:
    """The same by `nn.LSTMCell`; the state is h, c of each layer in turn."""
    cells = []
    for layer in range(case.L):
        cell = nn.LSTMCell(case.input_size(layer), case.H)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).data = getattr(model.lstm, f"{name}_l{layer}").data
        cells.append(cell)

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        if model.embedding is None:
            hidden = functional.one_hot(tokens, case.V).to(torch.float32)
        else:
            hidden = model.embedding(tokens)
        after: list[Tensor] = []
        for layer, cell in enumerate(cells):
            hidden, c = cell(hidden, (state[2 * layer], state[2 * layer + 1]))
            after += [hidden, c]
        return model.head(hidden), tuple(after)

    return step


def manual_step(model: LanguageModel, case: Case) -> Step:
    """The cell spelled out, the first layer's input projection folded into a table (V, 4H)."""
    lstm = model.lstm
    embedded = torch.eye(case.V) if model.embedding is None else model.embedding.weight.cpu()
    table = (embedded @ lstm.weight_ih_l0.cpu().T + lstm.bias_ih_l0.cpu()).to(
        lstm.bias_ih_l0.device
    )
    recurrent = [getattr(lstm, f"weight_hh_l{n}").T.contiguous() for n in range(case.L)]
    inputs = [getattr(lstm, f"weight_ih_l{n}").T.contiguous() for n in range(case.L)]
    biases = [getattr(lstm, f"bias_ih_l{n}") for n in range(case.L)]
    head, head_bias = model.head.weight.T.contiguous(), model.head.bias

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        after: list[Tensor] = []
        hidden = tokens
        for layer in range(case.L):
            h, c = state[2 * layer], state[2 * layer + 1]
            if layer == 0:
                gates = torch.addmm(table[tokens], h, recurrent[0])
            else:
                gates = torch.addmm(biases[layer], hidden, inputs[layer]).addmm_(
                    h, recurrent[layer]
                )
            i, f, g, o = gates.chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(c)
            after += [hidden, c]
        return torch.addmm(head_bias, hidden, head), tuple(after)

    return step


def multinomial(logits: Tensor, temperature: float) -> Tensor:
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1)[:, 0]


def race(logits: Tensor, temperature: float) -> Tensor:
    """Argmax of p / e with e exponential: the same distribution without a normaliser."""
    noise = torch.empty_like(logits).exponential_().log_()
    return torch.argmax(logits / temperature - noise, dim=-1)


class TorchSampling:
    """The contestant: each unit of `run` is one call that gives every row `case.T` new tokens.

    Args:
        case: the fields of a `Case`.
        variant: `lstm`, `cell`, `manual`, `compiled` or `graph` (CUDA).
        draw: `multinomial` or `race`.
        threads: intra-operator threads.
        mkldnn: let oneDNN run `nn.LSTM`.
        temperature: of the distribution.
        device: `cpu` or `cuda`.
        dtype: of the model.
    """

    def __init__(
        self,
        case: dict[str, Any],
        variant: str = "lstm",
        draw: str = "multinomial",
        threads: int = 1,
        mkldnn: bool = True,
        temperature: float = 1.0,
        device: str = "cpu",
        dtype: str = "float32",
    ):
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = mkldnn
        torch.manual_seed(0)
        self.case = Case(**case)
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype)
        self.stacked = variant == "lstm"
        self.temperature = temperature
        self.draw = {"multinomial": multinomial, "race": race}[draw]
        model = LanguageModel(self.case).to(self.device, self.dtype).requires_grad_(False).eval()
        if variant == "lstm":
            self.step = lstm_step(model)
        elif variant == "cell":
            self.step = cell_step(model, self.case)
        else:
            self.step = manual_step(model, self.case)
        if variant == "compiled":
            self.step = torch.compile(self.step, fullgraph=True)
        self.loop = self._graph_loop if variant == "graph" else self._loop
        self.run(1)

    def start(self) -> tuple[Tensor, State]:
        """Different first tokens (B,) and a zero state."""
        case = self.case
        tokens = torch.arange(case.B, device=self.device) % case.V
        options: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        if self.stacked:
            return tokens, (torch.zeros(case.L, case.B, case.H, **options),) * 2
        return tokens, tuple(torch.zeros(case.B, case.H, **options) for _ in range(2 * case.L))

    def _loop(self, steps: int) -> Tensor:
        tokens, state = self.start()
        out = torch.empty(steps, self.case.B, dtype=torch.long, device=self.device)
        for index in range(steps):
            logits, state = self.step(tokens, state)
            tokens = self.draw(logits, self.temperature)
            out[index] = tokens
        return out

    def _graph_loop(self, steps: int) -> Tensor:
        if not hasattr(self, "graph"):
            self._capture()
        tokens, state = self.start()
        self.tokens.copy_(tokens)
        for held, fresh in zip(self.state, state, strict=True):
            held.copy_(fresh)
        out = torch.empty(steps, self.case.B, dtype=torch.long, device=self.device)
        for index in range(steps):
            self.graph.replay()
            out[index] = self.tokens
        return out

    def _capture(self) -> None:
        """Record one step that updates `self.tokens` and `self.state` in place."""
        self.tokens, self.state = self.start()

        def advance() -> None:
            logits, after = self.step(self.tokens, self.state)
            self.tokens.copy_(self.draw(logits, self.temperature))
            for held, fresh in zip(self.state, after, strict=True):
                held.copy_(fresh)

        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                advance()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            advance()

    def run(self, steps: int) -> None:
        """Make so many calls; the tokens of each come to the host."""
        with torch.inference_mode():
            for _ in range(steps):
                self.loop(self.case.T).cpu()

    def greedy(self, steps: int) -> list[list[int]]:
        """Most likely tokens (B, steps), to be compared with the other contestants'."""
        tokens, state = self.start()
        rows = []
        with torch.inference_mode():
            for _ in range(steps):
                logits, state = self.step(tokens, state)
                tokens = logits.argmax(-1)
                rows.append(tokens)
        return torch.stack(rows, 1).tolist()

    def facts(self) -> dict[str, Any]:
        """The device's peak memory."""
        cuda = self.device.type == "cuda"
        return {"peak_bytes": torch.cuda.max_memory_allocated()} if cuda else {}
