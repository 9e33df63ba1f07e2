"""The peers: the same model, loss and optimizer in PyTorch, Keras and plain Flax."""
