"""Where text comes from: files on disk and data sets of the hub, read one document at a time so
that a corpus may be larger than memory.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from husai.errors import HusaiError, nearest

T = TypeVar("T")
BUFFER = 10_000
"""Documents held back to be shuffled: what lies further apart in a file keeps its order. 10,000
pages of web text are some 50 MB."""


def read_source(source: dict[str, Any], seed: int = 0) -> Iterator[str]:
    """Documents of one entry of ``corpus.sources``, in an order that ``seed`` decides.

    ``{"kind": "files", "paths": [glob, ...], "field": "text", "encoding": "utf-8"}`` reads txt
    files (documents stand between blank lines), jsonl (a document a line) and parquet.
    ``{"kind": "dataset", "name", "config", "split", "field", "revision", "streaming"}`` reads a
    data set of the hub, or a folder in its layout, through ``datasets``.

    Raises
    ------
    HusaiError
        No such file or data set, another encoding, a line that is no JSON, a field that is missing
        or holds no text.
    """
    documents = _of_files(source, seed) if source["kind"] == "files" else _of_dataset(source)
    return shuffled((text for text in documents if text.strip()), seed)


def shuffled(documents: Iterable[T], seed: int, size: int = BUFFER) -> Iterator[T]:
    """Every document once, in random order among some ``size`` neighbours."""
    rng, held = random.Random(seed), []
    for document in documents:
        if len(held) < size:
            held.append(document)
            continue
        place = rng.randrange(size)
        held[place], document = document, held[place]
        yield document
    rng.shuffle(held)
    yield from held


def files_of(source: dict[str, Any]) -> list[Path]:
    """The files that the globs of a source mean, each once, sorted.

    Raises
    ------
    HusaiError
        A glob matches no file, or a file is not of one of :data:`FORMATS`.
    """
    found = []
    for pattern in source["paths"]:
        matches = map(Path, glob.glob(os.path.expanduser(pattern), recursive=True))
        files = [path for path in matches if path.is_file()]
        if not files:
            raise HusaiError(
                f"corpus.sources: '{pattern}' matches no file; give paths or globs that are "
                "absolute or relative to the folder of results/"
            )
        found += files
    for path in found:
        if path.suffix.lower() not in FORMATS:
            raise HusaiError(
                f"corpus.sources: {path}: a {path.suffix or 'nameless'} file is not read; give "
                f"{', '.join(FORMATS)}"
            )
    return sorted(set(found))


def _of_files(source: dict[str, Any], seed: int) -> Iterator[str]:
    files = files_of(source)
    random.Random(seed).shuffle(files)
    encoding, field = source.get("encoding") or "utf-8", source.get("field") or "text"
    for path in files:
        yield from FORMATS[path.suffix.lower()](path, field, encoding)


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Lines of a text file; a byte order mark is no text."""
    try:
        with open(path, encoding="utf-8-sig" if encoding == "utf-8" else encoding) as handle:
            yield from handle
    except UnicodeDecodeError as error:
        raise HusaiError(
            f"corpus.sources: {path}: not {encoding} (byte {error.start} of a block: "
            f"{error.reason}); name its encoding, or convert the file"
        ) from error
    except (OSError, LookupError) as error:
        raise HusaiError(f"corpus.sources: {path}: cannot be read ({error})") from error


def _of_txt(path: Path, field: str, encoding: str) -> Iterator[str]:
    for blank, lines in itertools.groupby(_lines(path, encoding), lambda line: not line.strip()):
        if not blank:
            yield "".join(lines).rstrip("\n")


def _of_jsonl(path: Path, field: str, encoding: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path, encoding), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise HusaiError(
                f"corpus.sources: {path}: line {number} is no JSON ({error}); give one object a "
                "line"
            ) from error
        yield _text_of(record, field, f"{path}: line {number}")


def _of_parquet(path: Path, field: str, encoding: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if field not in names:
            raise HusaiError(
                f"corpus.sources: {path}: no field '{field}'{nearest(field, names)}; it has "
                f"{', '.join(names)}"
            )
        for batch in file.iter_batches(batch_size=1024, columns=[field]):
            for text in batch.column(0).to_pylist():
                if text is not None:
                    yield _text_of({field: text}, field, str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise HusaiError(f"corpus.sources: {path}: not readable as parquet ({error})") from error


FORMATS = {".txt": _of_txt, ".jsonl": _of_jsonl, ".json": _of_jsonl, ".parquet": _of_parquet}


def _text_of(record: Any, field: str, where: str) -> str:
    if not isinstance(record, dict) or field not in record:
        names = list(record) if isinstance(record, dict) else []
        raise HusaiError(
            f"corpus.sources: {where}: no field '{field}'{nearest(field, names)}"
            + (f"; it has {', '.join(map(str, names))}" if names else "")
        )
    if not isinstance(record[field], str):
        raise HusaiError(
            f"corpus.sources: {where}: field '{field}' holds {type(record[field]).__name__}, not "
            "text"
        )
    return record[field]


def _of_dataset(source: dict[str, Any]) -> Iterator[str]:
    from husai.subjects.hub import explain

    name, field = source["name"], source.get("field") or "text"
    try:
        for record in _load_dataset(source):
            yield _text_of(record, field, f"data set '{name}'")
    except HusaiError:
        raise
    except Exception as error:
        raise explain(error, "data set", name, source.get("revision")) from error


def _load_dataset(source: dict[str, Any]) -> Iterable[dict]:
    import datasets

    datasets.disable_progress_bars()
    name, revision = source["name"], source.get("revision")
    where, pinned = name, {"revision": revision} if revision else {}
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") and not Path(name).is_dir():
        from huggingface_hub import snapshot_download

        # Without a network ``datasets`` finds only what it has prepared itself; the hub's own cache
        # has the files.
        where = snapshot_download(name, repo_type="dataset", local_files_only=True, **pinned)
        pinned = {}
    return datasets.load_dataset(
        where,
        source.get("config"),
        split=source.get("split") or "train",
        streaming=source.get("streaming", True),
        **pinned,
    )
