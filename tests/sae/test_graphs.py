"""Recorded steps: a rehearsal of CUDA graphs on the CPU, and the step of a GPU run on tensors that
have no values to read back.
"""

import pytest
import torch
from sae_helpers import recipe, rows
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from husai.errors import HusaiError
from husai.sae import kernels
from husai.sae.training.arithmetic import Arithmetic
from husai.sae.training.graphs import LARGEST_RECORDED, WARM_UP_CALLS, ReplayedStep, recorder_for
from husai.sae.training.members import Ensemble, Member

DATA = rows(1000)
KINDS = [("relu", False), ("jumprelu", False)] + [
    (a, s) for a in ("topk", "batchtopk", "matryoshka", "transcoder") for s in (True, False)
]


class Tape(TorchDispatchMode):
    """Notes every operation with its arguments and results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        """Do it all again on the very same tensors, as a CUDA graph does on the same addresses."""
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if (
                    isinstance(old, torch.Tensor)
                    and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr()
                ):
                    old.copy_(new)


class Rehearsal:
    """A recorder for the CPU. Unlike CUDA it runs what it records, so that the first replay has
    been done already.
    """

    def __init__(self):
        self.replays = 0

    def warm_up(self, call):
        call()

    def record(self, call):
        tape, done = Tape(), True
        with tape:
            call()

        def replay():
            nonlocal done
            self.replays += 1
            if not done:
                tape.replay()
            done = False

        return replay


class Refusal(Rehearsal):
    def record(self, call):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


def gpu_code_gradient(code, g, W_dec):
    """The formula that GPUs use; sparse CSR tensors, which CPUs use, cannot be put on tape."""
    decoder = W_dec.reshape(-1, W_dec.shape[-1])
    gradient = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        g, decoder, code.columns, code.starts[:-1], code.rows, 0
    )
    return gradient.mul_(code.values > 0)


def ensemble(architecture, sparse, device="cpu", **changes):
    r = recipe(architecture, steps=60, **changes)
    target = DATA[:, :5] * 2 + 1 if architecture == "transcoder" else None
    reference = torch.randn(
        48, 5 if target is not None else 16, generator=torch.Generator().manual_seed(1)
    )
    return Ensemble(
        r,
        [Member(0, 0.3), Member(1, 0.5), Member(2, 0.7)],
        DATA,
        target,
        reference,
        device=device,
        sparse=sparse,
    )


def step(trained, steps=1):
    for _ in range(steps):
        for lane in trained.lanes:
            lane.step()


def run(trained, steps):
    step(trained, steps)
    losses = [loss for lane in trained.lanes for loss in lane.take_losses()]
    for lane in trained.lanes:
        lane.close()
    return {
        **trained.parameters,
        "losses": torch.tensor(losses, dtype=torch.float64),
        "since": torch.cat([lane.rows_since_fired for lane in trained.lanes]),
    }


def assert_same(a, b):
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def rehearsal(monkeypatch):
    recorder = Rehearsal()
    monkeypatch.setattr(kernels, "code_gradient", gpu_code_gradient)
    yield (
        recorder,
        lambda: monkeypatch.setattr("husai.sae.training.lane.recorder_for", lambda *_: recorder),
    )


@pytest.mark.parametrize(("architecture", "sparse"), KINDS)
@pytest.mark.parametrize("changes", [{}, {"shared_data_order": True}])
def test_a_recorded_step_trains_bit_identically(rehearsal, architecture, sparse, changes):
    recorder, use = rehearsal
    eager = run(ensemble(architecture, sparse, **changes), 25)
    use()
    assert_same(eager, run(ensemble(architecture, sparse, **changes), 25))
    assert recorder.replays == 3 * (25 - WARM_UP_CALLS)


def test_a_replayed_step_sees_a_new_assignment(rehearsal, monkeypatch):
    recorder, use = rehearsal
    changes, results = (
        {"consistency_weight": 5.0, "reference_seed": 7, "consistency_interval": 5},
        [],
    )
    for prepare in (lambda: None, use):
        prepare()
        generator = torch.Generator().manual_seed(0)
        monkeypatch.setattr(
            "husai.sae.training.objectives.match_rows",
            lambda A, B, g=generator: torch.randperm(len(A), generator=g),
        )
        results.append(run(ensemble("topk", True, **changes), 25))
    assert_same(*results)
    assert recorder.replays > 0


def test_a_replayed_step_counts_on_and_names_the_step_that_went_wrong(rehearsal):
    _, use = rehearsal
    named = []
    for prepare in (lambda: None, use):
        prepare()
        trained = ensemble("topk", True)
        step(trained, 11)
        trained.parameters["W_enc"][1, 0, 0] = float("nan")
        step(trained, 3)
        with pytest.raises(HusaiError) as caught:
            [lane.take_losses() for lane in trained.lanes]
        named.append(str(caught.value))
    assert named[0] == named[1]
    assert (
        "loss of seed 1 (sparsity coefficient 0.5) became NaN or infinite at step 11;" in named[0]
    )


def test_steps_with_dead_latents_are_not_replayed(rehearsal):
    recorder, use = rehearsal
    changes = {"dead_after_rows": 64 * 12, "auxk_coefficient": 0.03}
    eager, counted = ensemble("topk", True, **changes), []
    for trained in (eager, None):
        if trained is None:
            use()
            trained = ensemble("topk", True, **changes)
        trained.parameters["b_enc"][:, :20] -= 5.0
        counted.append(run(trained, 45))
        assert any(d is not None for lane in trained.lanes for d in lane.dead)
    assert_same(*counted)
    assert recorder.replays == 3 * (20 - WARM_UP_CALLS)


def test_a_resumed_run_records_its_own_step(rehearsal):
    _, use = rehearsal
    use()
    whole = run(ensemble("topk", True), 30)
    first, second = ensemble("topk", True), ensemble("topk", True)
    step(first, 10)
    run(second, 12)
    for lane, other in zip(second.lanes, first.lanes, strict=True):
        lane.restore(other.state())
    assert_same(whole, run(second, 20))


def test_a_recording_that_fails_leaves_the_steps_as_they_were(monkeypatch, capsys):
    eager = run(ensemble("topk", True), 12)
    monkeypatch.setattr("husai.sae.training.lane.recorder_for", lambda *_: Refusal())
    assert_same(eager, run(ensemble("topk", True), 12))
    logged = capsys.readouterr().err.strip().splitlines()
    assert len(logged) == 3
    assert (
        "steps run kernel by kernel, as recording one failed: operation not permitted when stream "
        "is capturing" in logged[0]
    )


def test_a_step_that_fails_by_itself_is_not_hidden():
    def broken(x):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        ReplayedStep(broken, Rehearsal())(torch.zeros(1))


class OneDevice(TorchDispatchMode):
    """Refuses an operation that mixes devices. Fused Adam has no meta kernel: only what CUDA asks
    of its rate is checked.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        adam = func is torch.ops.aten._fused_adam_.tensor_lr
        assert not adam or (kwargs["lr"].dtype, kwargs["lr"].shape) == (torch.float32, ())
        out = None if adam else func(*args, **kwargs)
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        assert all(t.device.type == "meta" for t in tensors), f"{func} mixes devices"
        return out


@pytest.mark.parametrize(("architecture", "sparse"), KINDS)
@pytest.mark.parametrize("products", [None, torch.bfloat16])
def test_the_step_of_a_gpu_reads_nothing_back_and_stays_on_its_device(
    monkeypatch, architecture, sparse, products
):
    """Meta tensors take the branches of a GPU and have shapes but no values: reading one, or a
    shape that depends on one, is an error.
    """
    monkeypatch.setattr(
        "husai.sae.training.members.choose", lambda *_: Arithmetic(sparse, products, False)
    )
    trained = ensemble(architecture, sparse, device="meta", gradient_clip=1.0)
    (lane,) = trained.lanes
    assert lane.size == 3
    batches = [torch.zeros(64, 16, device="meta")] * 3 + [torch.zeros(64, 5, device="meta")] * 3 * (
        architecture == "transcoder"
    )
    with OneDevice(), torch.no_grad():
        lane._update(*batches)


OPTIONS = [
    {"aligned": True, "weight_decay": 0.1},
    {"frozen_encoder": True},
    {"soft_frozen": 0.9},
    {"whitening": True},
]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_a_recorded_step_with_an_option_reads_nothing_back_and_trains_the_same(
    rehearsal, monkeypatch, option
):
    _, use = rehearsal
    eager = run(ensemble("topk", True, **option), 25)
    use()
    assert_same(eager, run(ensemble("topk", True, **option), 25))
    monkeypatch.setattr(
        "husai.sae.training.members.choose", lambda *_: Arithmetic(True, None, False)
    )
    (lane,) = ensemble("topk", True, device="meta", **option).lanes
    with OneDevice(), torch.no_grad():
        lane._update(*[torch.zeros(64, 16, device="meta")] * 3)


def test_what_a_gpu_must_not_do_is_an_error_there():
    values = torch.zeros(4, device="meta")
    for forbidden in (
        lambda: values.tolist(),
        lambda: bool(values.any()),
        lambda: values.nonzero(),
        lambda: values[values > 0],
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            forbidden()
    with pytest.raises(AssertionError, match="mixes devices"), OneDevice():
        values[torch.tensor([1])]


def test_only_small_steps_on_a_gpu_are_recorded():
    assert recorder_for(torch.device("cpu"), 10) is None
    assert recorder_for(torch.device("cuda"), LARGEST_RECORDED + 1) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("architecture", "sparse"), KINDS)
def test_a_gpu_replays_what_it_would_launch(monkeypatch, architecture, sparse):
    replayed = ensemble(architecture, sparse, device="cuda")
    a = run(replayed, 25)
    monkeypatch.setattr("husai.sae.training.lane.recorder_for", lambda *_: None)
    b = run(ensemble(architecture, sparse, device="cuda"), 25)
    for name, value in b.items():
        torch.testing.assert_close(a[name], value, rtol=1e-3, atol=1e-4)
