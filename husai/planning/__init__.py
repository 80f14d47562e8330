"""From a configuration to jobs: which recipes are trained with which seeds, what a job is told."""
