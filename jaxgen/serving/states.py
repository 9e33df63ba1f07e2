"""States of a model that texts continue from: their shapes, and whether one fits."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.carry import PromptState
from jaxgen.generation.guidance import Guidance
from jaxgen.generation.runner import Runner
from jaxgen.types import PyTree


class States:
    """The states of a model, of one row, and of the same model under guidance."""

    def __init__(self, runner: Runner, condition: PyTree):
        """States after texts under a condition of one row; UserError for a carry with scalars."""
        self._runner, self._condition = runner, condition
        self.blank = lru_cache(maxsize=32)(self._blank)
        if any(not np.ndim(leaf) for leaf in jax.tree.leaves(self.blank(0))):
            raise UserError(
                "a model whose carry holds scalars that all rows share cannot be served: its texts "
                "begin at different times; give each row its own"
            )

    def _blank(self, labels: int) -> PromptState:
        """Zeros in the structure, shapes and types of a state; with guidance of so many labels."""
        runner, condition = self._runner, self._condition
        if labels:
            ids, weights = np.zeros((1, labels), np.int32), np.zeros((1, labels), np.float32)
            runner, condition = runner.guided, Guidance(ids, np.int32(0), weights)

        def first(params: PyTree, condition: PyTree) -> PromptState:
            return PromptState(
                runner.model.initial_carry(params, 1, condition), jnp.zeros(1, jnp.int32)
            )

        shapes = jax.eval_shape(first, runner.params, condition)
        found: PromptState = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return found

    def check(self, state: PromptState, labels: int) -> None:
        """UserError for a state of another model, or of several rows."""
        if _described(state) != _described(self.blank(labels)):
            raise UserError(
                "`after` must be a state of this model, of one row; "
                "read its prompt with the model that is to continue it"
            )


def _described(tree: PyTree) -> str:
    """Structure, shapes and types."""
    return str(jax.tree.map(lambda x: (np.shape(x), str(x.dtype)), tree))
