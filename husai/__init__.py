"""HUSAI: decide whether sparse autoencoders can be trusted enough to release."""

__version__ = "0.1.0"
