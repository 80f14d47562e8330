"""Resume: runs killed at random steps end with the same weights, and a state is used by the run
that wrote it alone.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from sae_helpers import recipe, rows

from husai.sae.training.ensemble import train_ensemble
from husai.sae.training.initialise import initial_decoder

DATA, HELD_OUT = rows(1000), rows(300, seed=1)


def train(r, seeds, **changes):
    extra = (
        {"target": DATA[:, :5] * 2 + 1, "held_out_target": HELD_OUT[:, :5] * 2 + 1}
        if r.architecture == "transcoder"
        else {}
    )
    return train_ensemble(r, seeds, DATA, held_out=HELD_OUT, **{**extra, **changes})


def weights(sae):
    return torch.cat([sae.W_enc.flatten(), sae.W_dec.flatten(), sae.b_enc, sae.b_dec])


KILLED = """
import os, random, signal, sys, time
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from sae_helpers import recipe, rows
from husai.sae.training.ensemble import train_ensemble

folder, chance = Path({folder!r}), random.Random(0)

def start(name, architecture):
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    r = recipe(architecture, steps=240, dead_after_rows=500)
    result = train_ensemble(r, [0, 1], rows(1000), held_out=rows(300, seed=1), checkpoint_dir=folder / name, checkpoint_every=4,
                            progress=lambda n, note: os.write(write, b"." * n))
    torch.save([[s.W_enc, s.W_dec, s.b_enc, s.b_dec] for s in result.saes] + [result.curves[-1]], folder / (name + ".pt"))
    os._exit(0)

for architecture in ("topk", "batchtopk", "jumprelu"):
    child, _ = start(architecture + "-whole", architecture)
    assert os.waitpid(child, 0)[1] == 0
    for attempt in range(4):
        child, read = start(architecture + "-killed", architecture)
        for _ in range(chance.randint(5, 14)):
            os.read(read, 1)
        time.sleep(chance.random() * 0.01)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        os.close(read)
    child, _ = start(architecture + "-killed", architecture)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_runs_killed_at_random_steps_end_with_bit_identical_weights(tmp_path):
    code = KILLED.format(here=str(Path(__file__).parents[1]), folder=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    for architecture in ("topk", "batchtopk", "jumprelu"):
        a, b = (
            torch.load(tmp_path / f"{architecture}-{n}.pt", weights_only=True)
            for n in ("whole", "killed")
        )
        assert a[-1] == b[-1]
        assert all(
            torch.equal(x, y)
            for s, t in zip(a[:-1], b[:-1], strict=True)
            for x, y in zip(s, t, strict=True)
        )


def test_a_checkpoint_of_another_run_is_not_used(tmp_path, capsys):
    first = train(recipe(steps=20), [0], checkpoint_dir=tmp_path)
    again = train(recipe(steps=20), [0], checkpoint_dir=tmp_path)
    assert torch.equal(weights(first.saes[0]), weights(again.saes[0]))
    capsys.readouterr()
    other = train(recipe(steps=20, learning_rate=5e-3), [0], checkpoint_dir=tmp_path)
    assert torch.equal(
        weights(other.saes[0]), weights(train(recipe(steps=20, learning_rate=5e-3), [0]).saes[0])
    )
    for changes in ({"held_out": HELD_OUT[:200]}, {"data": DATA + 1}):
        call = {"data": DATA, "held_out": HELD_OUT, **changes}
        train_ensemble(recipe(steps=20), [0], **call, checkpoint_dir=tmp_path)
        assert "belongs to another run" in capsys.readouterr().err
    (tmp_path / "state.pt").write_bytes(b"torn")
    assert torch.equal(
        weights(train(recipe(steps=20), [0], checkpoint_dir=tmp_path).saes[0]),
        weights(first.saes[0]),
    )


def test_a_checkpoint_of_other_targets_or_another_reference_is_not_used(tmp_path, capsys):
    for r, changes in (
        (
            recipe("transcoder", steps=20),
            [{"target": DATA[:, :5] * 2 + 1}, {"target": DATA[:, :5]}],
        ),
        (
            recipe(steps=20, consistency_weight=1.0, reference_seed=7),
            [{"reference": initial_decoder(recipe(), s, 16)} for s in (7, 8)],
        ),
    ):
        for change in changes:
            train(r, [0], checkpoint_dir=tmp_path, **change)
        assert "belongs to another run" in capsys.readouterr().err.splitlines()[-1]
        for file in tmp_path.iterdir():
            file.unlink()
