"""The HTTP service: engines that batch continuously, and what answers over HTTP."""
