"""PyTorch's text GAN: an LSTM generator, SeqGAN's CNN discriminator, roll-outs step by step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gan_cases import GanCase

State = tuple[Tensor, Tensor]


class Generator(nn.Module):
    """Tokens to logits of the next one."""

    def __init__(self, case: GanCase):
        super().__init__()
        params = {name: torch.from_numpy(x) for name, x in case.parameters().items()}
        self.embedding = nn.Embedding(case.V, case.E)
        self.lstm = nn.LSTM(case.E, case.H, batch_first=True)
        self.head = nn.Linear(case.H, case.V)
        with torch.no_grad():
            self.embedding.weight.copy_(params["embedding"])
            self.lstm.weight_ih_l0.copy_(params["weight_ih"])
            self.lstm.weight_hh_l0.copy_(params["weight_hh"])
            self.lstm.bias_ih_l0.copy_(params["bias"])
            self.lstm.bias_hh_l0.zero_().requires_grad_(False)
            self.head.weight.copy_(params["head.weight"])
            self.head.bias.copy_(params["head.bias"])

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits (B, T, V) after each token (B, T), and the state at the end."""
        hidden, state = self.lstm(self.embedding(tokens), state)
        return self.head(hidden), state

    def write(self, token: Tensor, state: State | None, steps: int) -> Tensor:
        """So many tokens (B, steps) after one (B,), drawn from the softmax."""
        made = []
        for _ in range(steps):
            logits, state = self(token[:, None], state)
            token = torch.multinomial(torch.softmax(logits[:, 0], -1), 1)[:, 0]
            made.append(token)
        return torch.stack(made, 1)


class Discriminator(nn.Module):
    """Tokens to the score of being real."""

    def __init__(self, case: GanCase):
        super().__init__()
        params = {name: torch.from_numpy(x) for name, x in case.parameters().items()}
        self.embedding = nn.Embedding(case.V, case.D)
        sizes = zip(case.widths, case.filters, strict=True)
        self.filters = nn.ModuleList([nn.Conv1d(case.D, n, width) for width, n in sizes])
        self.highway = nn.Linear(case.features, 2 * case.features)
        self.head = nn.Linear(case.features, 1)
        with torch.no_grad():
            self.embedding.weight.copy_(params["judge.embedding"])
            for width, own in zip(case.widths, self.filters, strict=True):
                own.weight.copy_(params[f"judge.weight.{width}"])
                own.bias.copy_(params[f"judge.bias.{width}"])
            self.highway.weight.copy_(params["judge.highway.weight"])
            self.highway.bias.copy_(params["judge.highway.bias"])
            self.head.weight.copy_(params["judge.head.weight"][None])
            self.head.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).mT
        x = torch.cat([functional.relu(own(x)).amax(-1) for own in self.filters], -1)
        new, gate = self.highway(x).chunk(2, -1)
        gate = torch.sigmoid(gate)
        return self.head(gate * functional.relu(new) + (1 - gate) * x)[:, 0]


class TorchGan:
    """The contestant; units as those of `benchmarks.jaxgen_gan.JaxgenGan`.

    Args:
        case: the fields of a `GanCase`.
        unit: what `run` does.
        batched: all roll-outs of a prefix at once, the state after the prefix read once for all.
            Else as published programs have it: one roll-out of a batch after the other, each
            reading its prefix anew.
        threads: intra-operator threads.
    """

    def __init__(self, case: dict[str, Any], unit: str, batched: bool = True, threads: int = 1):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.case, self.unit, self.batched = GanCase(**case), unit, batched
        self.texts = torch.from_numpy(self.case.texts(0)).long()
        self.start = torch.zeros(self.case.B, dtype=torch.long)
        self.generator, self.discriminator = Generator(self.case), Discriminator(self.case)
        own = [p for p in self.generator.parameters() if p.requires_grad]
        self.tx = {
            "generator": torch.optim.Adam(own, lr=self.case.generator_rate),
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), lr=self.case.discriminator_rate
            ),
        }

    def after(self, prefix: Tensor) -> tuple[State, Tensor]:
        """The state after all of a prefix but its last token, and that."""
        line = torch.cat([self.start[:, None], prefix], 1)
        _, state = self.generator.lstm(self.generator.embedding(line[:, :-1]))
        return state, line[:, -1]

    @torch.no_grad()
    def roll_out(self, texts: Tensor) -> list[Tensor]:
        """For each prefix, texts (N, B, T) that continue it."""
        count, found = self.case.rollouts, []
        for length in range(1, self.case.T):
            prefix, left = texts[:, :length], self.case.T - length
            if self.batched:
                state, token = self.after(prefix)
                wide = tuple(x.repeat(1, count, 1) for x in state)
                made = self.generator.write(token.repeat(count), wide, left)
                made = made.reshape(count, self.case.B, left)
            else:
                each = []
                for _ in range(count):
                    state, token = self.after(prefix)
                    each.append(self.generator.write(token, state, left))
                made = torch.stack(each)
            found.append(torch.cat([prefix.expand(count, -1, -1), made], -1))
        return found

    @torch.no_grad()
    def returns(self, texts: Tensor) -> Tensor:
        """What each token is worth (B, T)."""
        columns = []
        for continued in self.roll_out(texts):
            if self.batched:
                scores = self.discriminator(continued.flatten(0, 1)).reshape(continued.shape[:2])
            else:
                scores = torch.stack([self.discriminator(rows) for rows in continued])
            columns.append(torch.sigmoid(scores).mean(0))
        columns.append(torch.sigmoid(self.discriminator(texts)))
        return torch.stack(columns, 1)

    def generator_step(self) -> None:
        with torch.no_grad():
            fake = self.generator.write(self.start, None, self.case.T)
        worth = self.returns(fake)
        logits, _ = self.generator(torch.cat([self.start[:, None], fake[:, :-1]], 1))
        nll = functional.cross_entropy(logits.flatten(0, 1), fake.flatten(), reduction="none")
        loss = (nll * worth.flatten()).mean()
        self.tx["generator"].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.generator.parameters(), 5.0)
        self.tx["generator"].step()

    def discriminator_step(self) -> None:
        with torch.no_grad():
            fake = self.generator.write(self.start, None, self.case.T)
        real, made = self.discriminator(self.texts), self.discriminator(fake)
        loss = functional.softplus(-real).mean() + functional.softplus(made).mean()
        self.tx["discriminator"].zero_grad(set_to_none=True)
        loss.backward()
        self.tx["discriminator"].step()

    @torch.no_grad()
    def figures(self) -> list[float]:
        """The generator's cross-entropy of some texts, and the mean score of others."""
        texts = torch.from_numpy(self.case.texts(1)).long()
        logits, _ = self.generator(torch.cat([self.start[:, None], texts[:, :-1]], 1))
        loss = functional.cross_entropy(logits.flatten(0, 1), texts.flatten())
        return [loss.item(), self.discriminator(self.texts).mean().item()]

    def worth(self) -> float:
        """The mean return."""
        return self.returns(self.texts).mean().item()

    def run(self, steps: int) -> None:
        """Make so many units."""
        units = {
            "rollouts": lambda: self.roll_out(self.texts),
            "returns": lambda: self.returns(self.texts),
            "generator": self.generator_step,
            "discriminator": self.discriminator_step,
        }
        for _ in range(steps):
            units[self.unit]()
