"""Oracles: LSTMs of known parameters, whose texts are the data that a text GAN learns from.

How likely a generated text is under the oracle (NLL_oracle) tells its quality (SeqGAN: Yu et al.
2017). One oracle proves little, so there are any number of random ones.
"""

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError, first_line
from jaxgen.generation.checks import check_at_least_one, check_key, row_keys
from jaxgen.generation.generate import generate
from jaxgen.generation.score import score
from jaxgen.ops.cell import LSTMCarry, lstm_step, zero_carry
from jaxgen.ops.lookup import lookup
from jaxgen.types import Array, Float, Int

LENGTH = 20
"""Tokens of a text, as in SeqGAN."""
START_ID = 0
"""The token before the first, which is a token like any other inside a text."""

_ROWS = 1024
"""Texts in one compiled call, so that their logits fit into memory."""
# SeqGAN's names: i, f, og and c are the gates i, f, o and g; V tokens, E embedding, H hidden.
_GATES = ("i", "f", "c", "og")
_LAYOUT = {
    "embedding": "VE",
    **{f"W{gate}": "EH" for gate in _GATES},
    **{f"U{gate}": "HH" for gate in _GATES},
    **{f"b{gate}": "H" for gate in _GATES},
    "Wo": "HV",
    "bo": "V",
}


class OracleParams(NamedTuple):
    """Parameters, gates in the order i, f, g, o (G = 4H)."""

    token_gates: Float[Array, "V G"]
    """The embedding times the input kernel, plus the bias: what each token does to the gates."""
    recurrent_kernel: Float[Array, "H G"]
    output_kernel: Float[Array, "H V"]
    output_bias: Float[Array, "V"]


@dataclass(frozen=True, eq=False)
class Oracle:
    """A language model that is the truth. Texts have one length and start from a zero carry."""

    params: OracleParams
    length: int = LENGTH
    """Tokens of the texts that `sample` draws."""

    @property
    def vocab_size(self) -> int:
        """Tokens that there are."""
        return self.params.output_bias.shape[0]

    def sample(self, key: Any, n: int) -> Int[np.ndarray, "N T"]:
        """Draw texts.

        Args:
            key: a seed, a jax key, or one key a text. A text depends on its own key alone.
            n: how many.

        Returns:
            int32, `length` tokens a text, the start token left out.

        Raises:
            UserError: for `n` below 1, or what is no key.
        """
        check_at_least_one(n=n)
        keys = row_keys(jnp.asarray(check_key(key, n)), n)
        found = []
        for rows, count in blocks(n, _ROWS):
            prompts = np.full((len(rows), 1), START_ID, np.int32)
            out = generate(
                _step,
                self.params,
                self._carry(len(rows)),
                prompts,
                None,
                keys[rows],
                max_new_tokens=self.length,
                num_logprobs=None,
            )
            found.append(np.asarray(out.tokens)[:count])
        return np.concatenate(found)

    def logprobs(self, tokens: Int[Any, "N T"]) -> Float[Array, "N T"]:
        """Log-probability of each token of some texts, in nats; under any transformation of JAX.

        All texts at once: one step makes logits [N, V]. Tokens are not checked.
        """
        tokens = jnp.asarray(tokens, jnp.int32)
        texts = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=START_ID)
        return score(_step, self.params, self._carry(len(texts)), texts).logprobs

    def nll(self, tokens: Any) -> float:
        """Mean nats per token of texts under the oracle: NLL_oracle.

        Args:
            tokens: Int[N, T], texts of any one length, without the start token.

        Raises:
            UserError: the tokens are none of the oracle's, or there are none.
        """
        texts = np.asarray(tokens)
        if texts.ndim != 2 or not texts.size or texts.dtype.kind not in "iu":
            raise UserError(
                "an oracle scores whole numbers [N, T] of at least one text and token, got "
                f"{texts.dtype}{list(texts.shape)}"
            )
        if texts.min() < 0 or texts.max() >= self.vocab_size:
            wrong = texts[(texts < 0) | (texts >= self.vocab_size)][0]
            raise UserError(
                f"an oracle of {self.vocab_size} tokens scores tokens in [0, {self.vocab_size}), "
                f"got {wrong}; the generator must have the oracle's vocabulary"
            )
        total = 0.0
        for rows, count in blocks(len(texts), _ROWS):
            found = np.asarray(self.logprobs(texts[rows]), np.float64)
            total -= found[:count].sum()
        return float(total / texts.size)

    def _carry(self, batch_size: int) -> LSTMCarry:
        return zero_carry(batch_size, len(self.params.recurrent_kernel))


def _step(
    params: OracleParams, carry: LSTMCarry, tokens: Int[Array, "B"]
) -> tuple[LSTMCarry, Float[Array, "B V"]]:
    # In full float32 on every device: these logits are the truth.
    gates = jnp.matmul(carry.h, params.recurrent_kernel, precision="highest")
    carry = lstm_step(lookup(params.token_gates, tokens) + gates, carry.c)
    logits = jnp.matmul(carry.h, params.output_kernel, precision="highest")
    return carry, logits + params.output_bias


def blocks(total: int, most: int) -> Iterator[tuple[Int[np.ndarray, "R"], int]]:
    """Rows of blocks of one size, at most `most`, and how many are real: the last repeats one."""
    size = -(-total // -(-total // most))
    for begin in range(0, total, size):
        count = min(size, total - begin)
        yield np.minimum(np.arange(begin, begin + size), total - 1), count


def random(
    seed: int,
    vocab_size: int = 5000,
    hidden_size: int = 32,
    embedding_size: int = 32,
    *,
    length: int = LENGTH,
) -> Oracle:
    """An oracle of random parameters, each drawn from a normal distribution N(0, 1) as SeqGAN's.

    Args:
        seed: draws the parameters (by NumPy, so that they are the same on every device).
        vocab_size: tokens.
        hidden_size: units.
        embedding_size: of a token.
        length: of a text.

    Raises:
        UserError: a size is below 1, or the seed below 0.
    """
    check_at_least_one(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        embedding_size=embedding_size,
        length=length,
    )
    if seed < 0:
        raise UserError(f"the seed of an oracle must be at least 0, got {seed}")
    sizes = {"V": vocab_size, "E": embedding_size, "H": hidden_size}
    draw = np.random.default_rng(seed).standard_normal
    arrays = {name: draw([sizes[x] for x in axes], np.float32) for name, axes in _LAYOUT.items()}
    return Oracle(_params_of(arrays), length)


def load(path: str | Path, *, length: int = LENGTH) -> Oracle:
    """The oracle of a file of SeqGAN's arrays.

    Args:
        path: .npz with `embedding` [V, E]; `Wi`, `Wf`, `Wog`, `Wc` [E, H], `Ui` and so on [H, H],
            `bi` and so on [H], of the gates i, f, o and g; `Wo` [H, V] and `bo` [V].
        length: of a text.

    Raises:
        UserError: the file cannot be read, or arrays are missing, of wrong shapes (all are named)
            or hold what is no finite number.
    """
    try:
        with Path(path).open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        said = first_line(error) if isinstance(error, OSError) else "it holds something else"
        raise UserError(
            f"an oracle is an .npz file of arrays, and {path} cannot be read as one: {said}"
        ) from error
    _check(arrays, path)
    return Oracle(_params_of({name: arrays[name].astype(np.float32) for name in _LAYOUT}), length)


def _check(arrays: Mapping[str, np.ndarray], path: Any) -> None:
    """UserError that names all arrays that are not as they must be."""
    votes: dict[str, Counter[int]] = {axis: Counter() for axis in "VEH"}
    for name, axes in _LAYOUT.items():
        if name in arrays:
            for axis, size in zip(axes, arrays[name].shape, strict=False):
                votes[axis][size] += 1
    # What most arrays say, so that the one that differs from the others is the one named.
    sizes = {axis: vote.most_common(1)[0][0] if vote else axis for axis, vote in votes.items()}
    wrong = []
    for name, axes in _LAYOUT.items():
        shape, found = [sizes[axis] for axis in axes], arrays.get(name)
        wanted = f"[{', '.join(map(str, shape))}]"
        if found is None:
            wrong.append(f"`{name}` {wanted} is missing")
        elif list(found.shape) != shape:
            wrong.append(f"`{name}` must be {wanted}, got {list(found.shape)}")
        elif found.dtype.kind not in "fiu" or not np.isfinite(found).all():
            wrong.append(f"`{name}` must hold finite numbers")
    if wrong:
        raise UserError(
            f"the oracle {path} must hold arrays of an LSTM of {sizes['V']} tokens, embedding "
            f"{sizes['E']} and {sizes['H']} units: {'; '.join(wrong)}; see "
            "`jaxgen.evaluation.oracle.load`"
        )


def _params_of(arrays: Mapping[str, np.ndarray]) -> OracleParams:
    kernel, recurrent_kernel, bias = (
        np.concatenate([arrays[f"{kind}{gate}"] for gate in _GATES], axis=-1) for kind in "WUb"
    )
    token_gates = arrays["embedding"] @ kernel + bias
    gates = (token_gates, recurrent_kernel, arrays["Wo"], arrays["bo"])
    return OracleParams(*jax.tree.map(jnp.asarray, gates))
