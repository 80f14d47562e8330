"""A hub subject loaded for real from a local hub cache: conversion, storage, and equality with the
original library's model.
"""

import json
import subprocess
import sys
from pathlib import Path

from husai.provenance import read_json

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from husai.jobs.activations import activations_job
from husai.jobs.subject import subject_job
from husai.planning.specs import ActivationsSpec, HubSpec
from husai.subjects import corpus as corpora, load_subject, tokenizer as tokenizers

root = Path(sys.argv[1])
snapshot = root / "hub/models--EleutherAI--pythia-70m-deduped/snapshots/0123456789abcdef0123456789abcdef01234567"
snapshot.mkdir(parents=True)
(snapshot.parents[1] / "refs").mkdir()
(snapshot.parents[1] / "refs/main").write_text(snapshot.name)
texts = [f"the number {i} follows {i - 1} and then comes {i + 1}" for i in range(400)]
fast = tokenizers.train_tokenizer(texts, 300)
from tokenizers import processors
fast.post_processor = processors.ByteLevel(trim_offsets=False)
fast.save(str(snapshot / "tokenizer.json"))
named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokenizers.SEPARATOR, "eos_token": tokenizers.SEPARATOR}
(snapshot / "tokenizer_config.json").write_text(json.dumps(named))
torch.manual_seed(0)
shape = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
hf = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, vocab_size=300, max_position_embeddings=64, rotary_pct=0.25)).eval()
hf.save_pretrained(snapshot)

cuts = {"train": texts[:300], "held_out": texts[300:350], "confirmation": texts[350:]}
hashes = {split: [f"{i:016x}" for i in range(len(rows))] for split, rows in cuts.items()}
corpora.build_corpus = lambda config: corpora.Corpus(cuts, hashes, {"n_rows": 400, "n_excluded": 0, "overlap_rows": 0, "sha256": "0"})
spec = {"kind": "hub", "name": "language", "model_name": "pythia-70m-deduped", "n_ctx": 32, "seed": 0}
subject_job(HubSpec(**spec), root / "language/model", device="cpu")
random = HubSpec(**{**spec, "name": "language-random", "randomise": True})
subject_job(random, root / "language-random/model", device="cpu")
rows = {"train_rows": 100, "held_out_rows": 10, "confirmation_rows": 10}
spec = ActivationsSpec(name="language", rows=rows)
stored = activations_job(spec, root / "language/model", "blocks.1.hook_resid_post", root / "acts", device="cpu")
subject = load_subject(root / "language/model")
text = "the number 7 follows 6"
with torch.no_grad():
    states = hf(torch.from_numpy(subject.encode([text])[0])[None], output_hidden_states=True).hidden_states
ours = subject.activations([text], ["blocks.1.hook_resid_pre"])["blocks.1.hook_resid_pre"][0]
result = {"difference": (states[1][0] - ours).abs().max().item(), "scale": ours.abs().max().item()}
(root / "result.json").write_text(json.dumps({**result, "n_ctx": subject.n_ctx, "stored": stored, "hooks": len(subject.hooks)}))
"""


def test_a_hub_model_in_the_local_cache_becomes_a_subject(tmp_path):
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["scale"] > 0.01 and result["difference"] < 1e-4 * max(1.0, result["scale"])
    assert result["n_ctx"] == 32 and result["stored"] == {
        "train": 100,
        "held_out": 10,
        "confirmation": 10,
    }
    metrics = read_json(tmp_path / "language/model/metrics.json")
    assert metrics["leak_probe"]["n"] > 0 and metrics["unigram_loss"] > 0
    assert read_json(tmp_path / "language-random/model/metrics.json")["parent"] == "language"
