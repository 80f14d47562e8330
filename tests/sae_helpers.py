"""Small recipes and rows shared by the tests of the SAE engine."""

import torch

from husai.recipe import FIXED_K, Recipe


def rows(n, d=16, seed=0, features=40):
    """Rows made of sparse directions around an offset, float32 (n, d)."""
    fixed, generator = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(features, d, generator=fixed), dim=1)
    active = torch.rand(n, features, generator=generator) < 0.08
    return (active * torch.rand(n, features, generator=generator).add(0.5)) @ directions * 2 + 3


def recipe(architecture="topk", d_sae=48, **changes):
    """A recipe that trains in a fraction of a second."""
    sparsity = {"k": 4} if architecture in FIXED_K else {"sparsity_coefficient": 0.5}
    target = {"target_hook_name": "out"} if architecture == "transcoder" else {}
    defaults = {"steps": 40, "batch_size": 64, **sparsity, **target}
    return Recipe("subject", "hook", architecture, d_sae, **{**defaults, **changes})
