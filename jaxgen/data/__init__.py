"""Corpora, tokenizers, token files and the batches that training and evaluation read."""
