"""Training all seeds of a recipe as one computation: what to optimise, how it is computed, and the
run from start to exported SAEs. ``ensemble`` is the way in.
"""
