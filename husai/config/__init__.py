"""Typed configuration: load and validate YAML overlays, all mistakes at once; writes its own JSON
schema and key table.
"""

from husai.config.loading import load, merge, read_yaml
from husai.config.schema import Config

__all__ = ["Config", "load", "merge", "read_yaml"]
