"""Trials of settings: a study over Optuna, whose best model becomes an ordinary run."""
