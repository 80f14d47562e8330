"""From a validated configuration to jobs: which recipes are trained with which seeds, and what each
job is told.
"""
