"""Faithfulness: what the subject loses when an SAE's reconstruction takes the place of its
activations.
"""

from husai.faithfulness.measure import Faithfulness, recovered

__all__ = ["Faithfulness", "recovered"]
