"""Which arithmetic a run uses: k-sparse or dense kernels, and the number format of products. On
trial against float64 before it is trusted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from husai.progress import log
from husai.recipe import FIXED_K
from husai.sae.fused import fits_code
from husai.sae.training.gradients import MEASURED_CROSSOVER, Parameters, Settings, gradients
from husai.sae.training.graphs import CudaRecorder

TRIAL_ROWS = 512
"""Rows of a trial; their float64 gradients take milliseconds, and the units of the error hardly
depend on how many there are (see :class:`Trial`)."""
TRIAL_SCALE = 1.05
"""Of the rows: initial biases and thresholds sit exactly at a pre-activation of these, where a last
bit turns a latent on or off."""
EXACT_LIMIT = 0.02
"""Units of batch noise by which float32 kernels may be off: rounding alone stays far below, a wrong
kernel far above."""
ROUNDED_LIMIT = 0.2
"""The same for a rounded format: what a batch 4% smaller would add (see :class:`Trial`)."""


class Format(NamedTuple):
    """A number format of training."""

    weights: torch.dtype
    """Weights, moments and sums."""
    products: torch.dtype | None = None
    """Operands of dense products are rounded to this first."""
    tf32: bool = False
    """A GPU may round operands of float32 products to 10 bits of mantissa."""


FORMATS = {
    "float32": Format(torch.float32),
    "tf32": Format(torch.float32, tf32=True),
    "bfloat16": Format(torch.float32, torch.bfloat16),
    "float64": Format(torch.float64),
}


class Arithmetic(NamedTuple):
    """What :func:`choose` decides."""

    sparse: bool
    """k-sparse rather than dense kernels."""
    products: torch.dtype | None
    tf32: bool
    fused: bool = False
    """k-sparse kernels of :mod:`husai.sae.fused` rather than PyTorch's."""


DENSE = Arithmetic(False, None, False)


class Problem(NamedTuple):
    """A step to try candidates on; arguments of :func:`husai.sae.training.gradients.gradients`."""

    p: Parameters
    x: torch.Tensor
    y: torch.Tensor
    coefficient: torch.Tensor

    def gradients(self, settings: Settings, chosen: Arithmetic) -> Parameters:
        """Gradients in the arithmetic ``chosen``."""
        with tf32(chosen.tf32):
            kernels = {"sparse": chosen.sparse, "fused": chosen.fused}
            own = settings._replace(matmul_dtype=chosen.products, **kernels)
            return gradients(own, *self).by_name

    def rows(self, start: int, stop: int) -> Problem:
        """The same step on some of its rows."""
        return self._replace(x=self.x[:, start:stop], y=self.y[:, start:stop])

    def double(self) -> Problem:
        """The same step in float64."""
        p = {name: value.double() for name, value in self.p.items()}
        return Problem(p, self.x.double(), self.y.double(), self.coefficient.double())


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Whether float32 products on a GPU use TF32, whatever the program allows otherwise.

    The setting is one for all threads.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    if before == enabled:
        yield
        return
    torch.backends.cuda.matmul.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@torch.no_grad()
def choose(
    settings: Settings,
    format: Format,
    problem: Problem,
    sparse: bool | None = None,
    measure: bool | None = None,
) -> Arithmetic:
    """The fastest arithmetic whose gradients are right on ``problem``.

    Fused kernels are tried wherever they can be used. On a CPU kernels are chosen by the crossover
    that ``benchmarks/bench_sae.py --crossover`` measured, so that the choice never depends on the
    load of the machine. On a GPU, where the crossover depends on the model, both are tried and
    timed. What fails its :class:`Trial` is not used, with one line in the log: dense products
    replace k-sparse kernels, float32 replaces a rounded format.

    ``sparse`` names the kernels of the TopK family, when the caller has made that choice. JumpReLU
    always uses dense products, and so does ReLU on a GPU or where ``sparse`` is False. ``measure``
    says whether to try and time kernels; None does so anywhere but on a CPU.
    """
    measure = problem.x.device.type != "cpu" if measure is None else measure
    if settings.architecture not in FIXED_K:  # on a GPU a count of active latents would wait for it
        kinds = [settings.architecture == "relu" and sparse is not False and not measure]
    elif sparse is not None:
        kinds = [sparse]
    elif measure:
        kinds = [True, False]
    else:
        kinds = [settings.k / problem.p["W_dec"].shape[1] <= MEASURED_CROSSOVER]
    exact = [Arithmetic(kind, None, False) for kind in kinds]
    if measure and any(kinds) and not settings.groups and fits_code(problem.p):
        exact.insert(0, Arithmetic(True, None, False, fused=True))
    wanted = [kind._replace(products=format.products, tf32=format.tf32) for kind in exact]
    if not measure and exact == wanted:
        return exact[0]
    trial = Trial(settings, problem)
    if measure:
        exact = [c for c in exact if trial.passes(c, EXACT_LIMIT)] or [DENSE]
    wanted = [c for c in wanted if c._replace(products=None, tf32=False) in exact]
    if wanted != exact:
        exact = [c for c in wanted if trial.passes(c, ROUNDED_LIMIT)] or exact
    if len(exact) == 1:
        return exact[0]
    return min(exact, key=lambda c: _best_time(settings, problem, c))


class Trial:
    """Compares the gradients of candidates with float64, in units of the noise that comes from
    drawing a batch.

    Errors of rounding act mostly through the code: entries near the k-th largest, or near the
    threshold, of a row come and go. They are as independent between rows as the rows are, so their
    ratio to the noise of the batch hardly depends on its size, and an error of r such units adds
    r^2 to the variance of a gradient: 0.2, the limit for a rounded format, is what a batch 4%
    smaller would add."""

    def __init__(self, settings: Settings, problem: Problem):
        rows = problem.rows(0, TRIAL_ROWS)
        self._problem = rows._replace(x=rows.x * TRIAL_SCALE, y=rows.y * TRIAL_SCALE)
        self._settings, exact, n = settings, self._problem.double(), rows.x.shape[1]
        self._true = exact.gradients(settings, DENSE)
        ends = ((0, n // 2), (n // 2, n))
        halves = [exact.rows(*end).gradients(settings, DENSE) for end in ends]
        self._noise = {name: _length(halves[0][name] - halves[1][name]) / 2 for name in self._true}

    def error(self, chosen: Arithmetic) -> float:
        """Largest error over members and parameters, in units of the noise."""
        found = self._problem.gradients(self._settings, chosen)
        units = [
            _length(found[n].double() - true) / self._noise[n].clamp_min(1e-30)
            for n, true in self._true.items()
        ]
        return float(torch.stack(units).nan_to_num(nan=float("inf")).max())

    def passes(self, chosen: Arithmetic, limit: float) -> bool:
        """Whether the error is within ``limit``; logs a line when it is not."""
        kernels = ("fused " if chosen.fused else "") + ("k-sparse" if chosen.sparse else "dense")
        try:
            error = self.error(chosen)
        except Exception as problem:
            if not chosen.fused:
                raise
            log(f"{kernels} kernels are not used: {' '.join(str(problem).split())[:200]}")
            return False
        if error > limit:
            log(
                f"{kernels} kernels in {_name(chosen)} are not used: gradients are {error:.2g} "
                f"units of batch noise off float64, limit {limit}"
            )
        return error <= limit


def _length(gradient: torch.Tensor) -> torch.Tensor:
    """Norm per member (S,)."""
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1)


def _best_time(settings: Settings, problem: Problem, chosen: Arithmetic) -> float:
    """Seconds of one step, best of three after a first run; on a GPU of its replay.

    Large steps hide the time of launching kernels, and small ones are recorded in training too.
    """
    device, best = problem.x.device, float("inf")

    def work() -> None:
        problem.gradients(settings, chosen)

    if device.type == "cuda":
        recorder = CudaRecorder(device)
        recorder.warm_up(work)
        with contextlib.suppress(RuntimeError):  # not to be recorded: launches are timed too
            work = recorder.record(work)
    for attempt in range(4):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        if attempt:
            best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(chosen: Arithmetic) -> str:
    return "tf32" if chosen.tf32 else str(chosen.products or torch.float32).removeprefix("torch.")
