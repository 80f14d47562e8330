"""Logistic regression along the path of its penalty."""
