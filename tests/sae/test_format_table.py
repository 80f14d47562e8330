"""Every class that SAELens, dictionary_learning and sparsify can save: read to 1e-5, or refused in
one line. The table of it is ``docs/formats.md``.
"""

import os
import re
from pathlib import Path

import pytest
import torch

from husai.errors import HusaiError
from husai.sae import load_sae

pytest.importorskip("sae_lens")
from saved_saes import ROWS, dictionary_cases, saelens_cases, sparsify_cases

PAGE = Path(__file__).parents[2] / "docs/formats.md"
HEAD = """# Formats

What HUSAI makes of every class that SAELens {saelens}, dictionary_learning 0.1 and sparsify 1.3 can
save: codes and reconstructions equal to 1e-5 in float32 on the same rows, or a refusal. This table
is made by `tests/sae/test_format_table.py` (`UPDATE_DOCS=1` writes it).

| trainer | class | saved as | read as | result |
|---|---|---|---|---|
"""
TAIL = """
Language-Model-SAEs (llamascopium) folders, Gemma Scope's `params.npz` and `.pt` files of HUSAI
before version 1 are read too. On hubs: `saelens:RELEASE/SAE_ID` is any release that SAELens lists,
loaded by its own loaders; `hf:REPO[/FOLDER][@REVISION]` is a folder of a repository in one of these
formats.
"""


def outcome(case, folder):
    """``(read as, result)`` of one case; an inequality fails the test."""
    code, reconstruction = case.make(folder)
    path = folder / case.saved if case.saved.endswith("100.pt") else folder
    try:
        sae = load_sae(path)
    except HusaiError as error:
        assert "\n" not in str(error)
        return "", "refused: " + re.sub(r"^\S+: ", "", str(error))
    assert code is not None, f"{case.trainer} {case.name}, {case.saved}: should be refused"
    torch.testing.assert_close(sae.encode(ROWS), code, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(code), reconstruction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.forward(ROWS), reconstruction, atol=1e-5, rtol=1e-5)
    transcodes = ", transcodes" if sae.transcodes and sae.architecture != "transcoder" else ""
    return sae.architecture + transcodes, "equal to 1e-5"


def test_every_class_is_read_exactly_or_refused_and_the_table_says_so(tmp_path):
    import sae_lens

    lines = []
    for i, case in enumerate([*saelens_cases(), *dictionary_cases(), *sparsify_cases()]):
        read_as, result = outcome(case, tmp_path / str(i))
        lines.append(f"| {case.trainer} | {case.name} | {case.saved} | {read_as} | {result} |\n")
    version = ".".join(sae_lens.__version__.split(".")[:2])
    page = HEAD.format(saelens=version) + "".join(lines) + TAIL
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, "run this test with UPDATE_DOCS=1"


def test_no_class_that_saelens_registers_is_missing():
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

    named = {case.name for case in saelens_cases()}
    assert named >= {*SAE_CLASS_REGISTRY, *SAE_TRAINING_CLASS_REGISTRY}
