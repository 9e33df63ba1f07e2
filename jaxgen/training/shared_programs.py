"""Training steps whose values are arguments, so that trainings of one shape share one program.

A program has the arrays that its function closes over, such as a learning rate, compiled into it.
Where many trainings differ in nothing else, each would be compiled anew; here these arrays are
arguments, and a program that was compiled once is taken from JAX's compilation cache.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core

from jaxgen.training.parallel import Layout
from jaxgen.training.step import MultiStep, TrainStep, multi_step_of


def jit_shared_steps(train_step: TrainStep, layout: Layout, *, accumulate: int = 1) -> MultiStep:
    """As `jaxgen.training.parallel.jit_multi_step`; the arrays it closes over are arguments."""
    return jit_shared(layout.divide(multi_step_of(train_step), accumulate=accumulate))


class SharedProgram(NamedTuple):
    """The program of arguments of one shape."""

    jitted: Any
    """Of the first argument, which is donated, the others, and what the function closes over."""
    closed_over: list[Any]

    def __call__(self, donated: Any, *others: Any) -> Any:
        """Run it."""
        return self.jitted(donated, others, self.closed_over)


def jit_shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jit a function with the arrays that it closes over as arguments, its first one donated.

    Scalars are compiled into it; what is to be an argument has at least one axis. So is what a
    `jit` within the function closes over, unless it is `jaxgen.training.step.INLINE`.
    """
    programs: dict[Any, SharedProgram] = {}

    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        shapes = (structure, *[(leaf.shape, leaf.dtype) for leaf in leaves])
        if shapes not in programs:
            programs[shapes] = shared_program(function, *args)
        return programs[shapes](*args)

    return call


def shared_program(function: Callable[..., Any], *args: Any) -> SharedProgram:
    """The program of a function for arguments of these shapes."""
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    result = jax.tree.structure(shapes)

    def from_arrays(donated: Any, others: Any, closed_over: Any) -> Any:
        inputs = jax.tree.leaves((donated, *others))
        outputs = core.jaxpr_as_fun(core.ClosedJaxpr(traced.jaxpr, closed_over))(*inputs)
        return jax.tree.unflatten(result, outputs)

    return SharedProgram(jax.jit(from_arrays, donate_argnums=0), traced.consts)
