"""A small language model that judges texts: trained on some, it measures others.

Trained on real texts, the nats per token that it gives to samples are their language-model score,
and its features of both make their Fréchet distance. Trained on samples, those that it gives to
real texts are the reverse score (Zhao et al. 2018), which is high where the samples leave out much.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.evaluation.sums import make_sums
from jaxgen.generation.checks import check_at_least_one
from jaxgen.models.language_model import LanguageModel, language_model_loss
from jaxgen.tasks.language_model import init_params
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.step import TrainState, init_state, make_train_step, multi_step_of
from jaxgen.types import Array, Float, Int, LossAux, PyTree

LEAST_TEXTS = 10
"""Of fewer, none could be held out."""
_ROWS = 256
"""Texts that are measured at once."""


class Rows(NamedTuple):
    """Texts as a judge reads them."""

    tokens: Int[np.ndarray, "N T+1"]
    """Int32; the first column is the token that stands before each text."""
    mask: np.ndarray
    """Bool [N, T]: real tokens, the first column left out."""

    def take(self, rows: Any) -> dict[str, np.ndarray]:
        """A batch of some of them, or several with a leading axis."""
        return {"tokens": self.tokens[rows], "mask": self.mask[rows]}


@dataclass(frozen=True, eq=False)
class TextJudge:
    """A trained judge. Texts are tokens Int[N, T], right-padded, and their lengths Int[N].

    A token that ends the texts counts like any other where the lengths count it.
    """

    model: LanguageModel
    """Of one token more than the texts have: the last stands before each text."""
    params: PyTree
    held_out_nll: float
    """Nats per token of those of the texts it was made from that it was not trained on."""

    def nll(self, tokens: Any, lengths: Any = None) -> float:
        """Mean nats per token over all tokens of the texts; NaN where there are none.

        Raises:
            UserError: tokens or lengths are not such as the class says.
        """
        rows = _rows(tokens, lengths, self.model.vocab_size - 1)
        return _nll(self.model, self.params, rows)

    def features(self, tokens: Any, lengths: Any = None) -> Float[np.ndarray, "N H"]:
        """The mean of the last layer's outputs over the tokens of each text; zeros without tokens.

        Takes and raises what `nll` does.
        """
        rows = _rows(tokens, lengths, self.model.vocab_size - 1)
        found = [
            np.asarray(_features(self.model, self.params, batch["tokens"], batch["mask"]))
            for batch in _filled(rows)
        ]
        return np.concatenate(found)[: len(rows.tokens)]


def train_judge(
    tokens: Any,
    lengths: Any,
    vocab_size: int,
    *,
    seed: int = 0,
    epochs: int = 10,
    batch_size: int = 64,
    hidden_size: int = 128,
    embedding_size: int = 64,
    learning_rate: float = 3e-3,
    dropout: float = 0.3,
    progress: Callable[[str], None] = lambda done: None,
) -> TextJudge:
    """Train a judge of some texts, with a fixed budget.

    A tenth of the texts is held out, and of the parameters after each epoch those are kept under
    which it is likeliest. Scores compare only between judges of the same settings that were trained
    on as many texts; those share their compiled programs.

    Args:
        tokens: Int[N, T], texts, right-padded, in [0, vocab_size).
        lengths: Int[N], their tokens; None: all T of each.
        vocab_size: tokens that there may be.
        seed: of the parameters, the order of the texts, and what is held out.
        epochs: passes over the texts.
        batch_size: texts a step; all, where there are fewer.
        hidden_size: units of the one layer.
        embedding_size: of a token.
        learning_rate: of Adam, clipped at a norm of 1.
        dropout: on what goes into the LSTM and what comes out.
        progress: told after each epoch how far it is.

    Raises:
        UserError: there are fewer than 10 texts, a size is below 1, or tokens or lengths are not
            such as they must be.
    """
    check_at_least_one(epochs=epochs, batch_size=batch_size)
    rows = _rows(tokens, lengths, vocab_size)
    count = len(rows.tokens)
    if count < LEAST_TEXTS:
        raise UserError(
            f"a judge is trained on at least {LEAST_TEXTS} texts, of which it holds out one, got "
            f"{count}; give more"
        )
    model = LanguageModel(
        vocab_size + 1,
        hidden_size,
        embedding_size=embedding_size,
        dropout=dropout,
        input_dropout=dropout,
    )
    random = np.random.default_rng(seed)
    held_out, own = np.split(random.permutation(count), [count // 10])
    held_out_rows = Rows(*rows.take(held_out).values())
    batch_size = min(batch_size, len(own))
    steps = len(own) // batch_size
    start, run = _training(model, learning_rate)
    state = start(jax.random.key(seed))
    best, least = state.params, np.inf
    for epoch in range(1, epochs + 1):
        order = random.permutation(own)[: steps * batch_size]
        state, _ = run(state, rows.take(order.reshape(steps, batch_size)), steps)
        nll = _nll(model, state.params, held_out_rows)
        progress(f"epoch {epoch}: {nll:.3f} nats per token")
        if nll < least:
            best, least = state.params, nll
    return TextJudge(model, best, least)


def _rows(tokens: Any, lengths: Any, vocab_size: int) -> Rows:
    """Texts with the start token before each; UserError where they are not as they must be."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in "iu":
        raise UserError(
            "a judge takes whole numbers [N, T] of at least one text and token, got "
            f"{tokens.dtype}{list(tokens.shape)}"
        )
    count, width = tokens.shape
    lengths = np.full(count, width) if lengths is None else np.asarray(lengths)
    if lengths.shape != (count,) or lengths.min() < 0 or lengths.max() > width:
        raise UserError(
            f"`lengths` must be one number in [0, {width}] for each of the {count} texts, got "
            f"{lengths}"
        )
    mask = np.arange(width) < lengths[:, None]
    real = np.where(mask, tokens, 0)
    if real.min() < 0 or real.max() >= vocab_size:
        wrong = real[(real < 0) | (real >= vocab_size)][0]
        raise UserError(f"tokens that are judged must be in [0, {vocab_size}), got {wrong}")
    before = np.full((count, 1), vocab_size)
    return Rows(np.concatenate([before, real], axis=1).astype(np.int32), mask)


def _filled(rows: Rows) -> Iterator[dict[str, np.ndarray]]:
    """Batches of one size, the last of which is filled with texts without tokens."""
    for begin in range(0, len(rows.tokens), _ROWS):
        batch = rows.take(slice(begin, begin + _ROWS))
        missing = _ROWS - len(batch["tokens"])
        yield {name: np.pad(x, ((0, missing), (0, 0))) for name, x in batch.items()}


def _loss(
    model: LanguageModel, params: PyTree, carry: tuple[()], batch: Any, key: Array | None = None
) -> tuple[Float[Array, ""], LossAux]:
    """That of the language model, with a new carry for each batch."""
    first = model.initial_carry(batch["tokens"].shape[0])
    loss, aux = language_model_loss(model, params, first, batch, key)
    return loss, aux._replace(carry=carry)


@cache
def _training(model: LanguageModel, learning_rate: float) -> tuple[Callable, Callable]:
    """The first state of a key, and the steps of an epoch, both compiled."""
    tx = make_optimizer(name="adam", learning_rate=learning_rate, clip_norm=1.0)

    def start(key: Array) -> TrainState:
        return init_state(init_params(model, jax.random.fold_in(key, 0)), tx, key)

    return jax.jit(start), jax.jit(multi_step_of(make_train_step(partial(_loss, model), tx)))


@cache
def _sums(model: LanguageModel) -> Callable:
    return make_sums(partial(_loss, model))


def _nll(model: LanguageModel, params: PyTree, rows: Rows) -> float:
    found = _sums(model)(params, (), _filled(rows))["nll"]
    return float(found.total / found.weight) if found.weight else float("nan")


@partial(jax.jit, static_argnames="model")
def _features(model: LanguageModel, params: PyTree, tokens: Array, mask: Array) -> Array:
    carry = model.initial_carry(len(tokens))
    output: Any = model.apply({"params": params}, tokens.T, carry, method="hidden_states")
    # The first hidden state has read the start token alone, which says nothing of the text.
    total = jnp.where(mask.T[..., None], output[1][1:], 0).sum(axis=0)
    return total / jnp.maximum(mask.sum(axis=1, keepdims=True), 1).astype(jnp.float32)
