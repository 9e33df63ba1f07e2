"""Fine-tuning layer by layer: learning rates that fall with depth, and gradual unfreezing.

After ULMFiT (Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification").
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.training.optimizers import Schedule
from jaxgen.types import Array, Int, PyTree

DepthOf = Callable[[PyTree], PyTree]
"""From parameters to a tree like them of how many layers lie above each, 0 for the output's."""


def layerwise(
    rule: Callable[[Schedule], optax.GradientTransformation],
    schedule: Schedule,
    depth_of: DepthOf,
    *,
    layer_decay: float = 1.0,
    unfreeze_every: int = 0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """One rule for each layer: its learning rate is that of the layer above times `layer_decay`.

    A layer that has not joined yet changes neither its parameters nor its part of the optimizer's
    state, which begins with its first update as at the start of a training (Adam's bias correction
    too); its gradient counts for nothing in the clipping. The steps decide inside the compiled
    program, which computes that gradient all the same.

    Args:
        rule: Makes the rule from a learning rate, without clipping.
        schedule: Learning rate of the output layer, by the steps of the whole training.
        depth_of: The depth of each parameter.
        layer_decay: Factor from one layer to the next below, in (0, 1]; ULMFiT has 1 / 2.6.
        unfreeze_every: Steps after which one more layer joins, from the output down; 0 trains all
            from the start.
        clip_norm: Largest global norm of the gradient of the layers that have joined; None leaves
            it alone.
    """

    def rule_of(depth: int) -> optax.GradientTransformation:
        start = depth * unfreeze_every  # from here on the rule counts the steps, from zero
        return _from_step(start, rule(lambda step: layer_decay**depth * schedule(step + start)))

    def tx_of(tree: PyTree) -> optax.GradientTransformation:
        depths = depth_of(tree)
        present = sorted(set(jax.tree.leaves(depths)))
        parts = []
        if clip_norm is not None:
            joined = {d: _from_step(d * unfreeze_every, optax.identity()) for d in present}
            parts = [optax.partition(joined, depths), optax.clip_by_global_norm(clip_norm)]
        return optax.chain(*parts, optax.partition({d: rule_of(d) for d in present}, depths))

    return optax.GradientTransformation(
        lambda params: tx_of(params).init(params),
        lambda grads, state, params=None: tx_of(grads).update(grads, state, params),
    )


class _Waiting(NamedTuple):
    """The state of a rule that waits."""

    step: Int[Array, ""]
    rule: PyTree


def _from_step(start: int, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` from a step on; before it, updates are zero and the state stays.

    As `optax.conditionally_mask`, but without `lax.cond`, which XLA does not fuse with what is
    around it: on a CPU the whole update took nearly twice as long.
    """
    if start == 0:
        return tx

    def update(grads: PyTree, state: _Waiting, params: PyTree = None) -> tuple[PyTree, _Waiting]:
        joined = state.step >= start
        updates, rule = tx.update(grads, state.rule, params)
        updates = jax.tree.map(lambda new: jnp.where(joined, new, jnp.zeros_like(new)), updates)
        rule = jax.tree.map(lambda new, old: jnp.where(joined, new, old), rule, state.rule)
        return updates, _Waiting(state.step + 1, rule)

    return optax.GradientTransformation(
        lambda params: _Waiting(jnp.int32(0), tx.init(params)), update
    )
