"""Reading what is on disk: settings, tensors and pickles of other trainers. Only tensors are taken,
nothing in a file is ever run, and every number is converted to one format.
"""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from husai.errors import HusaiError

Tensors = dict[str, torch.Tensor]
FORMATS = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}


@contextlib.contextmanager
def reading(
    path: Path,
    otherwise: str,
    missing: str = "give a checkpoint or the directory the trainer saved",
) -> Iterator[None]:
    """Turn whatever a parser raises on another trainer's file, but refused pickles, into one line.

    Raises
    ------
    HusaiError
        The file is ``missing``, or is ``otherwise`` than it should be.
    """
    try:
        yield
    except pickle.UnpicklingError:
        raise
    except FileNotFoundError:
        raise HusaiError(f"{path}: no such file; {missing}") from None
    except Exception as error:  # damaged files fail in as many ways as there are parsers
        raise HusaiError(
            f"{path}: {otherwise} ({one_line(error)}); copy it again from its source"
        ) from None


def read_tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file, on the CPU.

    Raises
    ------
    HusaiError
        The file is missing, or is no whole safetensors file.
    """
    missing = "give the directory the trainer saved"
    with reading(path, "not a whole safetensors file", missing):
        return load_file(path)


def read_pickle(path: Path) -> Any:
    """What a ``.pt`` file holds, read with ``weights_only=True``, so that nothing in it is run.

    Raises
    ------
    HusaiError
        The file is missing, is no whole PyTorch file, or asks to run code or to build what is no
        plain tensor: it is refused before anything runs.
    """
    try:
        with reading(path, "not a whole PyTorch file"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"class (\S+)", str(error))
        why = "not a pickle of plain tensors"
        if found:
            why = f"this pickle wants to run or build {found.group(1).rstrip('.,')}"
        raise HusaiError(f"{path}: refused, {why}; save the tensors alone (a state dict)") from None


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``, with or without a byte order mark.

    Raises
    ------
    HusaiError
        The file is missing, is not JSON, or holds something other than an object.
    """
    missing = "it says how to read the weights beside it, copy it too"
    with reading(path, "not readable as JSON", missing):
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(value, dict):
        raise HusaiError(
            f"{path}: holds a {type(value).__name__}, an object with the SAE's settings is needed"
        )
    return value


def state_dict(loaded: Any, path: Path, wrappers: tuple[str, ...] = ()) -> Tensors:
    """The named tensors of a loaded pickle, at its top or under one of the ``wrappers``.

    Raises
    ------
    HusaiError
        ``loaded`` is no dictionary, or there are no tensors there.
    """
    if not isinstance(loaded, dict):
        raise HusaiError(
            f"{path}: holds a {type(loaded).__name__}, not a dictionary of tensors; save a state "
            "dict"
        )
    state = next((loaded[w] for w in wrappers if isinstance(loaded.get(w), dict)), loaded)
    tensors = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        where = " or ".join([*wrappers, "the top"])
        raise HusaiError(f"{path}: holds no tensors under {where}; not an SAE checkpoint")
    return tensors


def refuse_skip(tensors: Tensors, where: Path) -> None:
    """Refuse a skip connection, ``W_skip (d_in, d_out)``, unless it is zero.

    Raises
    ------
    HusaiError
        There is one.
    """
    if "W_skip" in tensors and bool(tensors["W_skip"].any()):
        raise HusaiError(
            f"{where}: W_skip is not zero; with a skip connection the output is more than what the "
            "code decodes to, which nothing here can measure"
        )


class Taker:
    """Takes named tensors out of a file, all in one number format: float64 where all of them are,
    else float32.

    Half precision is thereby computed in float32 everywhere. ``dtype`` is the format that the
    settings name; tensors of another format are rounded to it first, as their own trainer would.

    Raises
    ------
    HusaiError
        A missing name (the error lists what is there), integers where weights are expected, NaN or
        infinity, or a format the settings name that is not known.
    """

    def __init__(self, tensors: Tensors, path: Path, dtype: Any = None):
        self.tensors, self.path, self._rounding = tensors, path, None
        if dtype is not None:
            self._rounding = FORMATS.get(str(dtype).removeprefix("torch."))
            if self._rounding is None:
                raise HusaiError(
                    f"{path}: the settings name dtype '{dtype}', which is not one of "
                    f"{', '.join(FORMATS)}"
                )
        kinds = {t.dtype for t in tensors.values() if t.is_floating_point()}
        exact = self._rounding == torch.float64 or (dtype is None and kinds == {torch.float64})
        self._format = torch.float64 if exact else torch.float32

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __call__(self, name: str) -> torch.Tensor:
        tensor = self._converted(name)
        if not bool(torch.isfinite(tensor).all()):
            raise HusaiError(
                f"{self.path}: tensor {name} holds NaN or infinity; its training broke down: "
                "train it again or leave it out"
            )
        return tensor

    def _converted(self, name: str) -> torch.Tensor:
        if name not in self.tensors:
            have = ", ".join(sorted(self.tensors)[:8])
            raise HusaiError(
                f"{self.path}: tensor {name} is missing (found: {have}); this is not a checkpoint "
                "of the expected kind"
            )
        tensor = self.tensors[name].detach()
        if not tensor.is_floating_point():
            raise HusaiError(
                f"{self.path}: tensor {name} holds {str(tensor.dtype).removeprefix('torch.')}, not "
                "floating-point numbers; quantised weights are not read"
            )
        if self._rounding is not None:
            tensor = tensor.to(self._rounding)
        return tensor.to(self._format).contiguous()

    def thresholds(self, name: str, log: bool = False) -> torch.Tensor:
        """Thresholds ``(d_sae,)``, one per latent, given themselves or as logarithms. Infinity
        switches a latent off.

        Raises
        ------
        HusaiError
            One of them is NaN or minus infinity, or all are infinite.
        """
        value = self._converted(name)
        value = value.exp() if log else value
        if bool(torch.isnan(value).any()) or bool((value == -torch.inf).any()):
            raise HusaiError(f"{self.path}: tensor {name} holds NaN or -inf; its training broke")
        if bool(torch.isinf(value).all()):
            raise HusaiError(
                f"{self.path}: every entry of {name} is infinite, so no latent could ever fire"
            )
        return value

    def global_threshold(self, name: str, d_sae: int, zero_measured: bool) -> torch.Tensor:
        """One number as a threshold per latent ``(d_sae,)``.

        Raises
        ------
        HusaiError
            It is negative, and so was never measured; or 0 without ``zero_measured``, which depends
            on what the trainer starts from.
        """
        value = float(self(name).reshape(-1)[0])
        if value < 0 or (value == 0 and not zero_measured):
            raise HusaiError(
                f"{self.path}: the BatchTopK threshold is {value:g}, it was never measured; use a "
                "later checkpoint, or train past the step at which it is"
            )
        return torch.full((d_sae,), value, dtype=self._format)

    def encoder_decoder(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``W_enc (d_in, d_sae)``, ``b_enc (d_sae,)``, ``W_dec (d_sae, d_in)``: as stored, or
        transposed under ``nn.Linear`` names. The orientation comes from the names, never from the
        shapes.
        """
        if "W_enc" in self or "W_dec" in self:
            return self("W_enc"), self("b_enc"), self("W_dec")
        W_enc, W_dec = self("encoder.weight").T.contiguous(), self("decoder.weight").T.contiguous()
        gated = "gate_bias" in self
        b_enc = torch.zeros_like(W_enc[0]) if gated else self("encoder.bias")
        return W_enc, b_enc, W_dec

    def k(self, configured: Any) -> int:
        """k from the settings or from the tensor of that name.

        Raises
        ------
        HusaiError
            Neither has it, the two differ, or it is no whole number.
        """
        found = [whole(v, f"{self.path}: k") for v in (configured, self.tensors.get("k"))]
        found = [v for v in found if v is not None]
        if not found:
            raise HusaiError(
                f"{self.path}: k is neither in the settings nor in the file; a TopK SAE cannot be "
                "read without it"
            )
        if len(set(found)) > 1:
            raise HusaiError(
                f"{self.path}: k is {found[0]} in the settings but {found[1]} in the file; they "
                "do not belong together"
            )
        return found[0]


def whole(value: Any, what: str) -> int | None:
    """``value`` as an integer, None for None.

    Raises
    ------
    HusaiError
        It is a fraction or no number at all.
    """
    if value is None:
        return None
    value = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value != int(value):
        raise HusaiError(f"{what} is {value!r}; a whole number is needed")
    return int(value)


def scalars(values: dict[str, Any]) -> dict[str, Any]:
    """The plain JSON values among settings."""
    return {str(k): v for k, v in values.items() if isinstance(v, (str, int, float, bool))}


def one_line(error: BaseException) -> str:
    """The message of an error on one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
