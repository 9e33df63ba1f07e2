"""Recurrent sequence generation in JAX at the speed the hardware allows."""
