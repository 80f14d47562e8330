"""A model hub in a folder and a trimmed ``sae-probes`` wheel, for ``gpu_hour.sh``.

``gpu_hub.py hub FOLDER``: HF_HOME=FOLDER then holds a small random GPT-NeoX under the name of
pythia-70m-deduped. ``gpu_hub.py trim WHEEL FOLDER``: only every n-th row of its largest data
sets, 45 MB become 13.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

LARGEST_DATA_SET = 120_000
VOCABULARY, CONTEXT = 512, 128


def hub(root: Path) -> None:
    """Write the model and its tokenizer in the layout of the hub's cache."""
    import torch
    from tokenizers import processors
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from husai.subjects import tokenizer

    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = root / "hub/models--EleutherAI--pythia-70m-deduped/snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(revision)
    texts = [f"the number {i} follows {i - 1} and then comes {i + 1}" for i in range(4000)]
    fast = tokenizer.train_tokenizer(texts, VOCABULARY)
    fast.post_processor = processors.ByteLevel(trim_offsets=False)
    fast.save(str(snapshot / "tokenizer.json"))
    ends = {"bos_token": tokenizer.SEPARATOR, "eos_token": tokenizer.SEPARATOR}
    named = {"tokenizer_class": "PreTrainedTokenizerFast", **ends}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(named))
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 6}
    shape |= {
        "intermediate_size": 128,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
    }
    GPTNeoXForCausalLM(GPTNeoXConfig(**shape, rotary_pct=0.25)).eval().save_pretrained(snapshot)


def trim(wheel: Path, folder: Path) -> None:
    """Copy a wheel with every n-th row only of its data files above ``LARGEST_DATA_SET`` bytes."""
    import pandas

    folder.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(wheel) as old,
        zipfile.ZipFile(folder / wheel.name, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith(".csv.zst") and item.file_size > LARGEST_DATA_SET:
                table = pandas.read_csv(io.BytesIO(content), compression="zstd")
                kept = table.iloc[:: -(-item.file_size // LARGEST_DATA_SET)]
                text = io.BytesIO()
                kept.to_csv(text, index=False, compression={"method": "zstd", "level": 19})
                content = text.getvalue()
            if not item.filename.endswith(".dist-info/RECORD"):
                new.writestr(item.filename, content)
        record = next(n for n in old.namelist() if n.endswith(".dist-info/RECORD"))
        new.writestr(record, "".join(f"{name},,\n" for name in old.namelist()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["hub"] and len(sys.argv) == 3:
        hub(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["trim"] and len(sys.argv) == 4:
        trim(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(__doc__)
