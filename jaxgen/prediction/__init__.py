"""Trained classifiers as people use them: texts in, labels with their probabilities out."""
