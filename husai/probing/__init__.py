"""Sparse probing: data sets, protocol, encoders, solver and baselines."""
