"""Flax Linen modules built on the recurrence of `jaxgen.ops`."""
