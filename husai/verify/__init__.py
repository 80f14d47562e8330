"""Checks of a finished run: every artifact hashed again, every number and decision derived
again."""
