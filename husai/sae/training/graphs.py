"""A step whose kernels are recorded once and replayed, so that a small ensemble on a GPU does not
wait for the host to launch them one by one.

What PyTorch's notes on CUDA graphs ask of the step: shapes that never change, nothing read back to
the host, and every tensor that outlives a call changed in place, because a replay reads and writes
the addresses that were recorded."""

from __future__ import annotations

from collections.abc import Callable

import torch

from husai.progress import log

WARM_UP_CALLS = 3
"""Ordinary calls before a recording; PyTorch's notes on CUDA graphs ask for a few, so that lazily
made workspaces exist by then.
"""
LARGEST_RECORDED = 1 << 27
"""Pre-activations (members x batch x d_sae) of a step beyond which launching kernels takes a
vanishing share of a step, while the recording would hold a second set of its intermediate
results."""


class CudaRecorder:
    """CUDA graphs of one device. Warm-up and recording share a side stream, so that libraries have
    their workspaces there beforehand.
    """

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)

    def warm_up(self, call: Callable[[], None]) -> None:
        """Make an ordinary call where a later one is going to be recorded."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            call()
        current.wait_stream(self._stream)

    def record(self, call: Callable[[], None]) -> Callable[[], None]:
        """Record a call without running it; returns what replays it. RuntimeError when that is
        impossible. Threads that prefetch batches may go on meanwhile, hence the thread-local mode.
        """
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            with (
                torch.cuda.device(self._device),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                call()
        finally:
            # torch.cuda.graph leaves its own stream current when it cannot end a capture.
            torch.cuda.set_stream(current)
        return graph.replay


def recorder_for(device: torch.device, pre_activations: int) -> CudaRecorder | None:
    """A recorder where replaying pays: on a GPU, for steps up to ``LARGEST_RECORDED``."""
    pays = device.type == "cuda" and pre_activations <= LARGEST_RECORDED
    return CudaRecorder(device) if pays else None


class ReplayedStep:
    """Calls ``function(*inputs)``, from the fourth call on by replaying a recording of it.

    The shapes of its inputs never change, it returns nothing, and all it leaves behind is in
    tensors that it changes in place. It must not read a tensor's value on the host, nor change
    Python state. Without a recorder calls are ordinary throughout. A recording that fails is logged
    in one line, and ordinary calls are made from then on.
    """

    def __init__(self, function: Callable[..., None], recorder: CudaRecorder | None):
        self._function, self._recorder = function, recorder
        self._buffers: list[torch.Tensor] | None = None
        self._replay: Callable[[], None] | None = None
        self._calls = 0

    @property
    def recorded(self) -> bool:
        """Whether calls are replayed by now."""
        return self._replay is not None

    def __call__(self, *inputs: torch.Tensor) -> None:
        """One call; recorded ones read the inputs from buffers of their own."""
        if self._recorder is None:
            self._function(*inputs)
            return
        if self._buffers is None:
            self._buffers = [torch.empty_like(t) for t in inputs]
        torch._foreach_copy_(self._buffers, list(inputs))
        if self._replay is None and self._calls == WARM_UP_CALLS:
            self._record()
        if self._replay is not None:
            self._replay()
        elif self._recorder is not None:
            self._calls += 1
            self._recorder.warm_up(self._on_buffers)
        else:
            self._function(*inputs)

    def _record(self) -> None:
        try:
            self._replay = self._recorder.record(self._on_buffers)
        except RuntimeError as error:
            why = " ".join(str(error).split())[:200]
            log(f"steps run kernel by kernel, as recording one failed: {why}")
            self._recorder = self._buffers = None

    def _on_buffers(self) -> None:
        self._function(*self._buffers)
