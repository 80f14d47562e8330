"""A model hub in a folder, for tests and offline runs: tiny models with random weights, a text data
set and SAEs, in the layout of the hub's cache. ``python tests/hub/build.py FOLDER`` builds it,
``python tests/hub/build.py b200 FOLDER`` what config/b200.yaml names; with ``HF_HOME=FOLDER
HF_HUB_OFFLINE=1`` it is a hub. ``python tests/hub/build.py judge FOLDER`` writes what the
documents' ``husai judge`` command reads."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

REVISION = "0123456789abcdef0123456789abcdef01234567"
CAUSAL = "tests/tiny-neox"
ENCODER = "tests/tiny-bert"
DATASET = "tests/tiny-text"
SAES = "tests/tiny-saes"
HOOK = "blocks.1.hook_resid_post"
TRAINED_HOOK = "blocks.0.hook_resid_post"
SEPARATOR = "<|endoftext|>"
WIDTH = 32
SHAPE = {"hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 64}
SEEDS = (0, 1, 2)
SIZES = Path(__file__).parents[1] / "real/judge.yaml"


def documents(n: int = 600, seed: int = 0) -> list[str]:
    """English-like sentences, all different: subject, verb and object drawn from short lists."""
    rng = random.Random(seed)
    people = ["The baker", "A sailor", "My sister", "The old judge", "Nobody", "Our neighbour"]
    verbs = ["paints", "forgets", "sells", "repairs", "follows", "measures", "praises"]
    things = ["the clock", "a boat", "seven letters", "the garden", "green tea", "a long road"]
    places = ["in Oslo", "at night", "near the river", "for money", "without a word", "again"]
    made = []
    for number in range(n):
        clauses = [
            f"{rng.choice(people)} {rng.choice(verbs)} {rng.choice(things)} {rng.choice(places)}"
            for _ in range(rng.randint(1, 4))
        ]
        made.append(f"{', and '.join(clauses)}, {number} times.")
    return made


def snapshot(root: Path, name: str, kind: str = "models") -> Path:
    """The (new) folder of a repository's only revision in the hub's cache."""
    repository = root / "hub" / f"{kind}--{name.replace('/', '--')}"
    folder = repository / "snapshots" / REVISION
    folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(REVISION)
    return folder


def causal_model(
    folder: Path, vocab_size: int = 300, n_layers: int = 2, width: int = WIDTH
) -> Path:
    """Write a GPT-NeoX with its tokenizer; like Pythia's, it puts no special token before a
    text.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(), trainer)
    named = {"bos_token": SEPARATOR, "eos_token": SEPARATOR, "unk_token": SEPARATOR}
    _write_tokenizer(folder, tokenizer, named)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        **{**SHAPE, "hidden_size": width},
        num_hidden_layers=n_layers,
        vocab_size=vocab_size,
        max_position_embeddings=128,
        rotary_pct=0.25,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


def encoder_model(folder: Path, vocab_size: int = 300, n_layers: int = 3) -> Path:
    """Write a BERT encoder (without a language-model head) with its WordPiece tokenizer."""
    import torch
    from tokenizers import (
        Tokenizer,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import BertConfig, BertModel

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(documents(), trainer)
    around = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=around
    )
    roles = ("pad", "unk", "cls", "sep", "mask")
    named = {f"{role}_token": token for role, token in zip(roles, special, strict=True)}
    _write_tokenizer(folder, tokenizer, named)
    torch.manual_seed(0)
    config = BertConfig(
        **SHAPE,
        num_hidden_layers=n_layers,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=128,
    )
    model = BertModel(config).eval()
    for parameter in model.parameters():  # far enough from 0 that layers matter
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def _write_tokenizer(folder: Path, tokenizer, named: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def text_dataset(folder: Path, n: int = 2000) -> Path:
    """Write a data set with the splits train and test, one parquet file each, field ``text``."""
    import pyarrow
    import pyarrow.parquet

    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, seed, count in (("train", 1, n), ("test", 2, n // 10)):
        table = pyarrow.table({"text": documents(count, seed)})
        pyarrow.parquet.write_table(table, folder / f"data/{split}-00000-of-00001.parquet")
    return folder


def saes(folder: Path, hook_name: str = HOOK, model_name: str = CAUSAL) -> Path:
    """Write random SAEs that SAELens loads: ``{topk,relu}-seed{0,1,2}/{hook}``."""
    import torch

    from husai.sae import SAE, save_sae

    for seed in SEEDS:
        for architecture, k in (("topk", 4), ("relu", None)):
            generator = torch.Generator().manual_seed(seed)
            decoder = torch.randn(64, WIDTH, generator=generator)
            decoder /= decoder.norm(dim=1, keepdim=True)
            metadata = {"model_name": model_name, "hook_name": hook_name, "seed": seed}
            sae = SAE(
                architecture,
                decoder.T.contiguous(),
                decoder,
                torch.full((64,), -0.1),
                torch.zeros(WIDTH),
                k=k,
                cfg=metadata,
            )
            save_sae(sae, folder / f"{architecture}-seed{seed}" / hook_name)
    return folder


def trained_rows(model: Path):
    """Rows of the causal model's activations at ``TRAINED_HOOK``: 1000 held out, then the
    others."""
    import torch
    from transformers import AutoTokenizer, GPTNeoXModel

    encoded = AutoTokenizer.from_pretrained(model)(documents(800, seed=3))["input_ids"]
    network = GPTNeoXModel.from_pretrained(model).eval()
    with torch.no_grad():
        rows = [
            network(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, 1:]
            for ids in encoded
        ]
    x = torch.cat(rows)
    return x[:1000], x[1000:]


def trained_saes(folder: Path, rows, seeds: range, architecture: str = "topk") -> Path:
    """Train SAEs on the rows of ``trained_rows`` and write them as ``seed{n}/`` in SAELens'
    format.
    """
    from husai.sae import Recipe, save_sae, train_ensemble

    held_out, x = rows
    size = {"k": 4} if architecture in ("topk", "batchtopk") else {"sparsity_coefficient": 0.01}
    recipe = Recipe("tiny", TRAINED_HOOK, architecture, 64, **size, steps=300, batch_size=512)
    for seed, sae in zip(
        seeds,
        train_ensemble(recipe, list(seeds), x, held_out=held_out, device="cpu").saes,
        strict=True,
    ):
        sae.cfg = {"model_name": CAUSAL, "hook_name": TRAINED_HOOK, "seed": seed}
        save_sae(sae, folder / f"seed{seed}")
    return folder


def build(root: Path) -> Path:
    """Build the whole hub in ``root``; returns it."""
    causal_model(snapshot(root, CAUSAL))
    encoder_model(snapshot(root, ENCODER))
    text_dataset(snapshot(root, DATASET, "datasets"))
    saes(snapshot(root, SAES))
    return root


def b200(root: Path) -> Path:
    """A hub that has what ``config/b200.yaml`` names, tiny: model and text; returns ``root``."""
    causal_model(snapshot(root, "EleutherAI/pythia-70m-deduped"), n_layers=4)
    text_dataset(snapshot(root, "monology/pile-uncopyrighted", "datasets"))
    return root


def judge(root: Path) -> Path:
    """A model, a text, SAEs trained on the model, held-out rows of its activations, and sizes for a
    first look; returns ``root``.
    """
    import transformers

    from husai.activations import write_store

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    causal_model(root / "model")
    (root / "text.txt").write_text("\n\n".join(documents(1500, seed=5)))
    shutil.copy(SIZES, root / "small.yaml")
    rows = trained_rows(root / "model")
    write_store(root / "held_out", rows[0])
    trained_saes(root / "topk", rows, range(2), "topk")
    trained_saes(root / "kept-topk", rows, range(10, 13), "topk")
    return root


if __name__ == "__main__":
    made = {"b200": b200, "judge": judge}.get(sys.argv[1], build)
    print(made(Path(sys.argv[-1])))
