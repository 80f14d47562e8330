"""Proof that the gate can say no: adversaries it must reject, an oracle it must accept, simulated
false-pass rates."""
