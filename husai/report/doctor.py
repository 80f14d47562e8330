"""``husai doctor``: can this machine run the profile? Devices, memory, disk, hub access, versions
against the lock. No torch import.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

from husai.errors import HusaiError
from husai.yaml_files import load_yaml

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 2**30
LOCK = "requirements.lock"
RESERVE = 2 * GIB
"""For everything else that a run writes: records, reports, logs, corpora."""


class Check(NamedTuple):
    """One line of the table; ``state`` is ``ok``, ``warn`` (the run may be slower or partial) or
    ``fail`` (it cannot work).
    """

    state: str
    what: str
    found: str


def examine(
    root: str | Path = ".",
    profile: str = "local",
    hub_needed: bool = False,
    timeout: float = 3.0,
    writes: dict[str, int] | None = None,
) -> list[Check]:
    """Look at this machine from the checkout ``root`` for ``profiles/<profile>``, whose run
    ``writes`` so many bytes by what they are for.
    """
    root = Path(root)
    settings, checks = _profile(root, profile)
    gpus = gpu_memory_mb()
    return [
        _python(),
        *checks,
        _device(gpus, _wants(settings, "gpu") or _wants(settings, "gpu_mem_mb")),
        _gpu_memory(gpus, settings),
        _memory(settings),
        _disk(root, writes),
        _writable(root),
        _versions(root),
        _hub(hub_needed, timeout),
        *_programs(),
    ]


def table(checks: list[Check]) -> str:
    """The checks as aligned plain text, one line each."""
    width = max(len(c.what) for c in checks)
    return "\n".join(f"{c.state:<5} {c.what:<{width}}  {c.found}" for c in checks)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    state = OK if sys.version_info >= (3, 11) else FAIL
    return Check(state, "python", f"{version}; 3.11 or newer is needed")


def _profile(root: Path, profile: str) -> tuple[dict[str, Any], list[Check]]:
    path = root / "profiles" / profile / "config.yaml"
    if not path.is_file():
        known = sorted(p.parent.name for p in root.glob("profiles/*/config.yaml"))
        told = f"{path} is missing; there are: {', '.join(known) or 'none'}"
        return {}, [Check(FAIL, "profile", told)]
    try:
        settings = load_yaml(path) or {}
    except HusaiError as error:
        return {}, [Check(FAIL, "profile", str(error))]
    shown = ", ".join(f"{k} {settings[k]}" for k in ("executor", "cores", "jobs") if k in settings)
    found = Check(OK, "profile", f"{path} ({shown})" if shown else str(path))
    return settings, [found, _cores(settings)]


def _cores(settings: dict[str, Any]) -> Check:
    have = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = settings.get("cores")
    state = WARN if isinstance(wanted, int) and have < wanted else OK
    asked = "" if wanted is None else f", the profile asks for {wanted}"
    return Check(state, "cpu cores", f"{have} here{asked}")


def _resources(settings: dict[str, Any], key: str = "resources") -> dict[str, Any]:
    found = settings.get(key) or {}
    if isinstance(found, list):
        return dict(item.split("=", 1) for item in found if isinstance(item, str) and "=" in item)
    return found if isinstance(found, dict) else {}


def _wants(settings: dict[str, Any], name: str) -> float:
    values = [_resources(settings).get(name), _resources(settings, "default-resources").get(name)]
    per_rule = settings.get("set-resources") or {}
    if isinstance(per_rule, dict):
        values += [r.get(name) for r in per_rule.values() if isinstance(r, dict)]
    numbers = [float(v) for v in values if re.fullmatch(r"\d+(\.\d+)?", str(v))]
    return max(numbers, default=0.0)


def gpu_memory_mb() -> list[tuple[str, int]]:
    """``(name, total MB)`` of every CUDA device the driver lists; empty without one."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(",", 1) for line in said.stdout.splitlines() if "," in line]
    return [(name.strip(), int(size)) for name, size in rows if size.strip().isdigit()]


def _device(gpus: list[tuple[str, int]], wanted: float) -> Check:
    try:
        build = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Check(FAIL, "device", "torch is not installed; run make install")
    if gpus:
        names = ", ".join(f"{name} ({size / 1024:.0f} GiB)" for name, size in gpus)
        if "+cpu" in build:
            told = f"{names}, but torch {build} is a CPU build and will not use it"
            return Check(WARN, "device", told)
        return Check(OK, "device", f"{names}, torch {build}")
    told = f"no CUDA device, torch {build} on CPU"
    if wanted:
        return Check(WARN, "device", f"{told}; the profile asks for a GPU")
    return Check(OK, "device", told)


def _gpu_memory(gpus: list[tuple[str, int]], settings: dict[str, Any]) -> Check:
    wanted, have = _wants(settings, "gpu_mem_mb"), max((size for _, size in gpus), default=0)
    if not wanted:
        return Check(OK, "gpu memory", "the profile asks for none")
    told = f"{have} MB here, the profile lets jobs share {wanted:.0f} MB"
    return Check(OK if have >= wanted else WARN, "gpu memory", told)


def _memory(settings: dict[str, Any]) -> Check:
    total, free = _meminfo("MemTotal"), _meminfo("MemAvailable")
    wanted = _wants(settings, "mem_mb") or 6000
    if total is None or free is None:
        return Check(WARN, "memory", "this system does not say how much there is")
    told = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}; the run may use {wanted / 1024:.1f}"
    return Check(OK if free >= wanted * 2**20 else WARN, "memory", told)


def _meminfo(name: str) -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB", text, flags=re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _disk(root: Path, writes: dict[str, int] | None) -> Check:
    results = root / "results"  # may be a disk of its own
    free = shutil.disk_usage(results if results.is_dir() else root).free
    if writes is None:
        return Check(OK, "disk", f"{free / GIB:.0f} GiB free for results/")
    wanted = sum(writes.values()) + RESERVE
    parts = ", ".join(f"{what} {size / GIB:.1f}" for what, size in writes.items())
    told = (
        f"{free / GIB:.0f} GiB free for results/; the run writes about {wanted / GIB:.0f} "
        f"({parts}, the rest {RESERVE / GIB:.0f})"
    )
    return Check(OK if free >= wanted else FAIL, "disk", told)


def _writable(root: Path) -> Check:
    folders = [p for p in (root / "results", root / "reports") if p.exists()] or [root]
    closed = [str(folder) for folder in folders if not os.access(folder, os.W_OK)]
    if closed:
        return Check(FAIL, "write access", f"not to {', '.join(closed)}")
    return Check(OK, "write access", ", ".join(map(str, folders)))


def pins(lock: Path) -> dict[str, str]:
    """``{package: version}`` of the ``name==version`` lines that apply to this machine."""
    from packaging.requirements import InvalidRequirement, Requirement

    found = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        text = line.split(" #")[0].split(" --hash")[0].strip().rstrip("\\").strip()
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        exact = [s.version for s in requirement.specifier if s.operator == "=="]
        if exact and (requirement.marker is None or requirement.marker.evaluate()):
            found[requirement.name] = exact[0]
    return found


def _versions(root: Path) -> Check:
    lock = root / LOCK
    if not lock.is_file():
        return Check(WARN, "versions", "no lock file here to compare with")
    wrong = []
    for name, version in pins(lock).items():
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            have = "missing"
        if have.split("+")[0] != version.split("+")[0]:
            wrong.append(f"{name} {have} (lock: {version})")
    if not wrong:
        return Check(OK, "versions", f"as in {lock}")
    told = ", ".join([*wrong[:4], *(["..."] if len(wrong) > 4 else [])])
    return Check(WARN, "versions", f"{len(wrong)} differ from {lock}: {told}")


def _hub(needed: bool, timeout: float) -> Check:
    host = urlparse(os.environ.get("HF_ENDPOINT", "")).hostname or "huggingface.co"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        told = "HF_HUB_OFFLINE is set; only cached models load"
        return Check(WARN if needed else OK, "model hub", told)
    try:
        socket.create_connection((host, 443), timeout=timeout).close()
    except OSError as error:
        why = "--hub says that it must be" if needed else "the embedded default does not need it"
        told = f"{host} cannot be reached ({error}); {why}"
        return Check(FAIL if needed else OK, "model hub", told)
    return Check(OK, "model hub", f"{host} can be reached")


def _programs() -> list[Check]:
    try:
        snakemake = Check(OK, "snakemake", metadata.version("snakemake"))
    except metadata.PackageNotFoundError:
        snakemake = Check(FAIL, "snakemake", "not installed; run make install")
    git = shutil.which("git")
    return [
        snakemake,
        Check(OK if git else WARN, "git", git or "not found; commits will not be recorded"),
    ]
