"""A trimmed ``sae-probes`` wheel for ``gpu_hour.sh``: ``trim_wheel.py WHEEL FOLDER`` keeps every
n-th row of its largest data sets, 45 MB become 13.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

LARGEST_DATA_SET = 120_000


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
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    trim(Path(sys.argv[1]), Path(sys.argv[2]))
