"""Typed configuration: YAML overlays validated, all mistakes at once; its schema and key table."""

from husai.config.loading import load, merge, read_yaml
from husai.config.schema import Config

__all__ = ["Config", "load", "merge", "read_yaml"]
