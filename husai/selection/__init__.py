"""Choosing one candidate from measured conditions."""
