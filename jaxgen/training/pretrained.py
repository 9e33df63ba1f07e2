"""Parameters of another run to begin with, put into the state before the first step."""

from typing import Any

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.training.step import Average, TrainState
from jaxgen.trees import flatten, name_of
from jaxgen.types import PyTree


def check_pretrained(pretrained: PyTree, params: PyTree, *, where: str) -> None:
    """Check that parameters of another run fit, before anything is made or written.

    Args:
        pretrained: Part of the tree of parameters, see `Trainable.pretrained`.
        params: All parameters, or `jax.ShapeDtypeStruct`s.
        where: What to call the other run in errors.

    Raises:
        UserError: There is no parameter of that name, or its shape or type differs.
    """
    own = flatten(params)
    for name, array in flatten(pretrained).items():
        if name not in own:
            raise UserError(
                f"{where} has `{name}`, which this model has not: give it the layers of that one"
            )
        there, here = (f"{x.dtype}{list(x.shape)}" for x in (array, own[name]))
        if there != here:
            raise UserError(
                f"{where}: `{name}` is {there} there and {here} here: give this model the sizes "
                "of that one"
            )


def begin_from(state: TrainState, pretrained: PyTree) -> TrainState:
    """A first state in which parameters of another run take the place of fresh ones.

    The optimizer's state stays, which for every optimizer here does not depend on the parameters.

    Args:
        state: From `Trainable.init_state`; of one run.
        pretrained: Part of the tree of parameters, checked by `check_pretrained`.
    """
    arrays = flatten(pretrained)

    def put(path: tuple[Any, ...], fresh: Any) -> np.ndarray:
        return np.array(arrays.get(name_of(path), fresh))

    params = jax.tree_util.tree_map_with_path(put, state.params)
    average = state.average
    if isinstance(average, Average):  # copied: the steps donate both
        average = average._replace(params=jax.tree.map(np.array, params))
    return state._replace(params=params, average=average)
