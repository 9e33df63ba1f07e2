"""PyTorch's encoder-decoder as it decodes: greedy, and a batched beam search, in plain loops."""

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import cycle
from benchmarks.peers.torch_layers import set_up
from benchmarks.peers.torch_seq2seq import Memory, Seq2Seq
from benchmarks.seq2seq_cases import BOS, EOS, Seq2SeqCase

State = tuple[Tensor, Tensor]


class TorchDecoding:
    """The contestant: a unit of `run` is one call on B sources, to tokens on the host.

    The encoder reads packed sequences; the decoder steps by `nn.LSTMCell`.

    Args:
        case: the fields of a `Seq2SeqCase`.
        threads: intra-operator threads.
        mkldnn: let oneDNN run what it can.
    """

    def __init__(self, case: dict[str, Any], threads: int = 1, mkldnn: bool = True):
        set_up(threads, mkldnn)
        self.case = Seq2SeqCase(**case)
        self.model = Seq2Seq(self.case, packed=True, endless=True).requires_grad_(False).eval()
        self.cell = nn.LSTMCell(self.case.E, self.case.H).requires_grad_(False)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(self.cell, name).data = getattr(self.model.decoder, f"{name}_l0").data
        self.calls = [
            (torch.from_numpy(tokens).long(), torch.from_numpy(lengths).long())
            for tokens, lengths in self.case.questions()
        ]
        self.decode = self.search if self.case.beams > 1 else self.greedy
        self.stream = cycle(self.calls)
        self.run(len(self.calls))

    def logits(
        self, tokens: Tensor, state: State, memory: Memory | None, beams: int = 1
    ) -> tuple[Tensor, State]:
        """Logits (B * beams, V) after one more token of each text."""
        h, c = self.cell(self.model.embedding(tokens), state)
        attended = self.model.attend(h.view(-1, beams, self.case.H), memory)
        return self.model.head(attended.view(-1, self.case.H)), (h, c)

    def greedy(self, sources: Tensor, lengths: Tensor) -> Tensor:
        """The most likely token at each step (B, N), until all texts have ended."""
        h, c, memory = self.model.encode(sources, lengths)
        state, tokens = (h, c), torch.full((len(sources),), BOS)
        ended = torch.zeros(len(sources), dtype=torch.bool)
        said = []
        for _ in range(self.case.new_tokens):
            logits, state = self.logits(tokens, state, memory)
            tokens = logits.argmax(-1).masked_fill(ended, 0)
            said.append(tokens)
            ended |= tokens == EOS
            if ended.all():
                break
        return torch.stack(said, 1)

    def search(self, sources: Tensor, lengths: Tensor) -> Tensor:
        """The best text (B, N) of a beam search, ranked by the mean log-probability of a token.

        Twice as many continuations as there are beams are looked at, so that with those that end
        (one a beam at most) enough go on. It stops when no running text can become better than
        the worst of the ended ones.
        """
        width, most, size = self.case.beams, self.case.new_tokens, self.case.V
        batch = len(sources)
        h, c, memory = self.model.encode(sources, lengths)
        state = h.repeat_interleave(width, 0), c.repeat_interleave(width, 0)
        tokens = torch.full((batch * width,), BOS)
        first_rows = torch.arange(batch)[:, None] * width
        scores = torch.full((batch, width), -torch.inf)
        scores[:, 0] = 0
        ended_scores = torch.full((batch, width), -torch.inf)
        ended_texts = texts = torch.zeros(batch, width, most, dtype=torch.long)
        for step in range(most):
            logits, state = self.logits(tokens, state, memory, width)
            total = torch.log_softmax(logits, -1).view(batch, width, size) + scores[..., None]
            best, place = total.flatten(1).topk(2 * width)
            parent, token = place // size, place % size
            ends = token == EOS
            if ends.any():
                stopped = rows_of(texts, parent)
                stopped[..., step] = token
                final = torch.where(ends, best / (step + 1), -torch.inf)
                ended_scores, which = torch.cat([ended_scores, final], 1).topk(width)
                ended_texts = rows_of(torch.cat([ended_texts, stopped], 1), which)
                scores, which = best.masked_fill(ends, -torch.inf).topk(width)
                parent, token = parent.gather(1, which), token.gather(1, which)
            else:
                scores, parent, token = best[:, :width], parent[:, :width], token[:, :width]
            texts = rows_of(texts, parent)
            texts[..., step] = token
            rows, tokens = (parent + first_rows).flatten(), token.flatten()
            state = state[0][rows], state[1][rows]
            if (scores[:, 0] / most <= ended_scores[:, -1]).all():
                break
        pool = torch.cat([ended_scores, scores / most], 1).argmax(1, keepdim=True)
        return rows_of(torch.cat([ended_texts, texts], 1), pool)[:, 0]

    def tokens(self, steps: int) -> list[list[list[int]]]:
        """The best text (B, new_tokens) a call, of the first calls."""
        with torch.inference_mode():
            return [self.decode(*call).tolist() for call in self.calls[:steps]]

    def run(self, steps: int) -> None:
        """Make so many calls, one after the other."""
        with torch.inference_mode():
            for call in islice(self.stream, steps):
                self.decode(*call).numpy()


def rows_of(texts: Tensor, which: Tensor) -> Tensor:
    """Texts (B, K, N) by their places (B, J): (B, J, N)."""
    return texts.gather(1, which[..., None].expand(-1, -1, texts.shape[2]))
