"""Verbs ``saebench``, ``cebench``, ``ood`` and ``official``."""


def add_to(verbs) -> None:
    pass
