"""PyTorch's encoder-decoder: `nn.LSTM` on both sides, its own attention, Adam."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.peers.torch_layers import TorchEpochs, at_ends, load_layer, set_up, turned
from benchmarks.seq2seq_cases import Seq2SeqCase

SHUT = 100.0
"""A gate with this in its pre-activation is open, with its negative shut, to the last bit."""


class Memory(NamedTuple):
    """What attention reads of the sources, projected once for all steps."""

    keys: Tensor
    values: Tensor
    padding: Tensor
    """(B, 1, S), True beyond a source's end."""


class Encoder(nn.Module):
    """Embedded sources to outputs (B, S, D*H) and the last h and c (B, D*H).

    Args:
        case: shapes and parameters.
        packed: hand `nn.LSTM` packed sequences, which skip the padding. Else it reads the padding
            too. Outputs there count nowhere, as attention masks them; but `nn.LSTM` tells c only
            after its last step. So it reads one more number, 1 at the padding, which shuts the
            input gate and opens the forget gate there: c then stays what it was. A second
            direction reads each text turned around within its length.
    """

    def __init__(self, case: Seq2SeqCase, packed: bool):
        super().__init__()
        self.case, self.packed = case, packed
        size = case.E + (0 if packed else 1)
        ways = 1 if packed else case.directions
        both = packed and case.bidirectional
        self.lstms = nn.ModuleList(
            nn.LSTM(size, case.H, batch_first=True, bidirectional=both) for _ in range(ways)
        )
        self.load()

    def load(self) -> None:
        """Copy the case's parameters."""
        params = {name: torch.from_numpy(x) for name, x in self.case.parameters().items()}
        for way in range(self.case.directions):
            names = tuple(f"encoder.{way}.{part}" for part in ("weight_ih", "weight_hh", "bias"))
            lstm: Any = self.lstms[0 if self.packed else way]
            load_layer(lstm, params, names, "_reverse" if self.packed and way else "")
            if not self.packed:
                column = torch.zeros(4, self.case.H)
                column[0], column[1] = -SHUT, SHUT
                lstm.weight_ih_l0.data[:, -1] = column.flatten()
                learned = torch.ones(self.case.E + 1)
                learned[-1] = 0
                lstm.weight_ih_l0.register_hook(partial(torch.mul, learned))

    def forward(self, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.packed:
            packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
            outputs, (h, c) = self.lstms[0](packed)
            h, c = (x.transpose(0, 1).flatten(1) for x in (h, c))
            if self.case.attention == "none":
                return embedded, h, c  # the outputs need not be unpacked
            size = embedded.shape[1]
            outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=size)
            return outputs, h, c
        padding = torch.arange(embedded.shape[1]) >= lengths[:, None]
        inputs = torch.cat([embedded, padding[..., None].to(embedded.dtype)], -1)
        parts = []
        for way, lstm in enumerate(self.lstms):
            outputs, (_, c) = lstm(turned(inputs, lengths) if way else inputs)
            h = at_ends(outputs, lengths)
            parts.append((turned(outputs, lengths) if way else outputs, h, c[0]))
        outputs, h, c = (torch.cat(x, -1) for x in zip(*parts, strict=True))
        return outputs, h, c


class Seq2Seq(nn.Module):
    """Sources and targets so far to logits of the next tokens.

    Args:
        case: shapes and parameters.
        packed: see `Encoder`; the output layer then reads the real steps alone, too.
        endless: see `Seq2SeqCase.parameters`.
    """

    def __init__(self, case: Seq2SeqCase, packed: bool, endless: bool = False):
        super().__init__()
        self.case, self.packed = case, packed
        self.source_embedding = nn.Embedding(case.V, case.E)
        self.embedding = nn.Embedding(case.V, case.E)
        self.encoder = Encoder(case, packed)
        self.decoder = nn.LSTM(case.E, case.H, batch_first=True)
        self.head = nn.Linear(case.H, case.V)
        if case.bidirectional:
            self.bridge_c = nn.Linear(case.output_size, case.H)
            self.bridge_h = nn.Linear(case.output_size, case.H)
        if case.attention != "none":
            self.key = nn.Linear(case.output_size, case.H, bias=False)
            self.value = nn.Linear(case.output_size, case.H, bias=False)
            self.hidden = nn.Linear(case.H, case.H, bias=False)
        self.load(endless)

    def load(self, endless: bool) -> None:
        """Copy the case's parameters."""
        source = self.case.parameters(endless=endless)
        params = {name: torch.from_numpy(x) for name, x in source.items()}
        names = ("decoder.weight_ih", "decoder.weight_hh", "decoder.bias")
        load_layer(self.decoder, params, names)
        own = dict(self.named_parameters())
        with torch.no_grad():
            for name, value in params.items():
                theirs = name.replace("bridge.", "bridge_").removeprefix("attention.")
                theirs = theirs if theirs in own else f"{theirs}.weight"
                if theirs in own:
                    own[theirs].copy_(value)

    def encode(self, sources: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Memory | None]:
        """First h and c (B, H) of the decoder, and what attention reads."""
        outputs, h, c = self.encoder(self.source_embedding(sources), lengths)
        memory = None
        if self.case.attention != "none":
            padding = torch.arange(sources.shape[1]) >= lengths[:, None]
            memory = Memory(self.key(outputs), self.value(outputs), padding[:, None])
        if self.case.bidirectional:
            h, c = torch.tanh(self.bridge_h(h)), torch.tanh(self.bridge_c(c))
        return h, c, memory

    def attend(self, hidden: Tensor, memory: Memory | None) -> Tensor:
        """What the output layer reads (B, T, H), of hidden states (B, T, H)."""
        if memory is None:
            return hidden
        scores = torch.bmm(hidden, memory.keys.transpose(1, 2))
        weights = torch.softmax(scores.masked_fill(memory.padding, -torch.inf), -1)
        return torch.tanh(self.hidden(hidden) + torch.bmm(weights, memory.values))

    def forward(self, sources: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of the real tokens of targets (B, T + 1)."""
        h, c, memory = self.encode(sources, lengths)
        hidden, _ = self.decoder(self.embedding(targets[:, :-1]), (h[None], c[None]))
        attended, following = self.attend(hidden, memory), targets[:, 1:]
        if self.packed:
            real = following != 0
            return functional.cross_entropy(self.head(attended[real]), following[real])
        logits = self.head(attended).flatten(0, 1)
        return functional.cross_entropy(logits, following.flatten(), ignore_index=0)


class TorchTraining(TorchEpochs):
    """The contestant: a unit of `run` is one epoch of the case's plan, see `TorchEpochs`.

    Args:
        case: the fields of a `Seq2SeqCase`.
        packed: see `Seq2Seq`.
        threads: intra-operator threads.
        mkldnn: let oneDNN run the LSTM; else ATen's own CPU kernels.
    """

    def __init__(
        self, case: dict[str, Any], packed: bool = True, threads: int = 1, mkldnn: bool = True
    ):
        set_up(threads, mkldnn)
        self.case = Seq2SeqCase(**case)
        batches = [
            tuple(torch.from_numpy(x).long() for x in batch[:3]) for batch in self.case.batches()
        ]
        super().__init__(
            partial(Seq2Seq, self.case, packed), Seq2Seq.__call__, batches, self.case.learning_rate
        )
