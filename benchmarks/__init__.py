"""Benchmarks of jaxgen beside its peers: what was measured, against what, how near the limit."""
