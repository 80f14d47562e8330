"""``husai stability PATH PATH ...`` as a user types it: bad input is one line that says what, where
and what to do, with exit status 1.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from husai.activations import ActivationStore, write_store
from husai.cli import main
from husai.sae import SAE, save_sae
from husai.stability import gaussian_decoder, planted_decoders

D_IN, D_SAE = 16, 32


@pytest.fixture
def saes(tmp_path):
    """Folders a to d: SAEs of four seeds that share three quarters of their features."""
    return [
        save(tmp_path / name, W, seed=i)
        for i, (name, W) in enumerate(
            zip("abcd", planted_decoders(4, D_SAE, D_IN, 0.75), strict=True)
        )
    ]


def save(path, W, seed=None, b_enc=None):
    cfg = {} if seed is None else {"seed": seed}
    save_sae(
        SAE(
            "relu",
            W.T.contiguous(),
            W,
            torch.zeros(len(W)) if b_enc is None else b_enc,
            torch.zeros(W.shape[1]),
            cfg=cfg,
        ),
        path,
    )
    return path


def store(path, width=D_IN):
    write_store(path, torch.randn((200, width), generator=torch.Generator().manual_seed(1)))
    return path


def run(capsys, *args):
    """Exit status, standard output, and the lines of standard error."""
    status = main(["stability", *map(str, args)])
    out, err = capsys.readouterr()
    return status, out, err.strip().split("\n")


def refused(capsys, *args):
    """The one line that a refused command prints."""
    status, out, lines = run(capsys, *args)
    assert status == 1
    assert out == ""
    assert len(lines) == 1, lines
    assert lines[0].startswith("husai stability: ")
    return lines[0]


def test_good_input_is_a_table_and_exit_status_0(capsys, saes):
    status, out, _ = run(capsys, *saes)
    assert status == 0
    for word in (
        "PWMCC",
        "null: gaussian (used)",
        "S (chance-corrected)",
        "shared fraction",
        "jackknife-t, 4 SAEs",
        "verdict: reproducible",
    ):
        assert word in out


def test_json_is_the_same_as_data(capsys, saes):
    status, out, _ = run(capsys, *saes, "--json")
    record = json.loads(out)
    assert (status, record["schema"], len(record["saes"])) == (0, "husai.comparison/1", 4)
    assert record["metrics"]["S"]["lcb"] > 0.5


def test_one_checkpoint_or_none(capsys, saes):
    assert "got 1 checkpoint; give at least two paths" in refused(capsys, saes[0])
    assert "got 0 checkpoints; give at least two paths" in refused(capsys)


def test_widths_that_differ_name_both_files_and_widths(capsys, saes, tmp_path):
    narrow = save(tmp_path / "narrow", gaussian_decoder(8, D_SAE, 1))
    line = refused(capsys, saes[0], narrow)
    for word in (str(saes[0]), "d_in 16", str(narrow), "d_in 8", "compare SAEs of one hook"):
        assert word in line


def test_rows_of_zeros_are_refused_and_dropped_when_asked(capsys, saes, tmp_path):
    W = gaussian_decoder(D_IN, D_SAE, 3)
    W[[5, 9]] = 0
    hollow = save(tmp_path / "hollow", W)
    line = refused(capsys, saes[0], hollow)
    assert f"{hollow}: 2 of 32 decoder rows are zero (first: row 5)" in line
    assert "--drop-zero-rows" in line
    status, out, _ = run(capsys, saes[0], hollow, "--drop-zero-rows", "--json")
    assert status == 0
    assert [s["living"] for s in json.loads(out)["saes"]] == [32, 30]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(capsys, saes, tmp_path, value):
    shutil.copytree(saes[1], tmp_path / "broken")
    W = gaussian_decoder(D_IN, D_SAE, 4).contiguous()
    W[0, 0] = value
    tensors = {
        "W_enc": W.T.contiguous(),
        "W_dec": W,
        "b_enc": torch.zeros(D_SAE),
        "b_dec": torch.zeros(D_IN),
    }
    save_file(tensors, tmp_path / "broken" / "sae_weights.safetensors")
    line = refused(capsys, saes[0], tmp_path / "broken")
    assert str(tmp_path / "broken") in line
    assert "tensor W_enc holds NaN or infinity; its training broke down: train it again" in line


def test_every_latent_dead(capsys, saes, tmp_path):
    dead = save(
        tmp_path / "dead", gaussian_decoder(D_IN, D_SAE, 6), b_enc=torch.full((D_SAE,), -1e6)
    )
    rows = store(tmp_path / "rows")
    line = refused(capsys, saes[0], dead, "--activations", rows)
    assert f"{dead}: all 32 latents fire on none of the rows given" in line
    zero = save(tmp_path / "zero", torch.zeros(D_SAE, D_IN))
    assert "zero (first: row 0)" in refused(capsys, saes[0], zero)
    assert "have a decoder row of length zero; there is nothing to compare" in refused(
        capsys, saes[0], zero, "--drop-zero-rows"
    )


def test_identical_files_and_equal_seeds_are_flagged_and_no_reproduction(capsys, saes, tmp_path):
    shutil.copytree(saes[0], tmp_path / "copy")
    status, out, _ = run(capsys, saes[0], tmp_path / "copy")
    assert status == 0
    assert "S1 and S2: identical weights; not counted as reproduction" in out
    assert "no pair of independent SAEs" in out
    twin = save(tmp_path / "twin", gaussian_decoder(D_IN, D_SAE, 7), seed=0)
    status, out, _ = run(capsys, saes[0], twin)
    assert status == 0
    assert "S1 and S2: the same seed (0); not counted as reproduction" in out
    assert "verdict: not assessable: no pair of independent SAEs" in out


def test_a_copy_beside_real_seeds_changes_no_figure(capsys, saes, tmp_path):
    shutil.copytree(saes[0], tmp_path / "copy")
    alone, with_copy = (
        json.loads(run(capsys, *paths, "--json")[1]) for paths in (saes, [*saes, tmp_path / "copy"])
    )
    assert with_copy["independent"] == [0, 1, 2, 3]
    assert with_copy["metrics"] == alone["metrics"]


def test_a_noisy_copy_under_another_seed_is_counted_with_a_warning(capsys, saes, tmp_path):
    W = planted_decoders(4, D_SAE, D_IN, 0.75)[0]
    twin = save(tmp_path / "twin", W + 0.01 * gaussian_decoder(D_IN, D_SAE, 7) / D_IN**0.5, seed=9)
    status, out, _ = run(capsys, *saes, twin)
    assert status == 0
    assert [
        line.split(": 32 rows")[0]
        for line in out.split("\n")
        if "rows match at their own index" in line
    ] == ["warning: S1 and S5"]
    record = json.loads(run(capsys, *saes, twin, "--json")[1])
    assert record["verdict"].endswith("pairs with a warning are no reproduction")
    assert record["kin"] == [{"a": 0, "b": 4, "rows": 32}] and record["independent"] == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_what_cannot_be_measured_is_said(capsys, saes, tmp_path):
    assert "needs activations, whose directions it uses" in refused(
        capsys, *saes, "--null", "covariance"
    )
    assert "needs SAEs that HUSAI trained" in refused(capsys, *saes, "--null", "init")
    assert "the rows are 8 wide" in refused(
        capsys, *saes, "--activations", store(tmp_path / "narrow", 8)
    )
    assert str(tmp_path / "absent") in refused(capsys, saes[0], tmp_path / "absent")
    assert str(tmp_path / "nothing") in refused(
        capsys, *saes, "--activations", tmp_path / "nothing"
    )
    np.save(tmp_path / "weights.npy", np.zeros(3))
    assert "weights.npy" in refused(capsys, saes[0], tmp_path / "weights.npy")


def test_a_mistyped_command_is_one_line_too_and_never_the_status_of_a_failed_gate(capsys, saes):
    with pytest.raises(SystemExit) as stopped:
        main(["stability", *map(str, saes), "--null", "gausian"])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(
        "husai stability: argument --null: invalid choice: 'gausian' (choose from "
    )


def test_rows_of_a_file_give_what_a_store_of_them_gives(capsys, saes, tmp_path):
    stored = store(tmp_path / "rows")
    torch.save(ActivationStore.open(stored).tensor(), tmp_path / "rows.pt")
    first, second = (
        run(capsys, *saes, "--activations", path) for path in (stored, tmp_path / "rows.pt")
    )
    assert first[0] == 0 and first[1] == second[1]
    assert "one matrix of rows" in refused(capsys, *saes, "--activations", empty(tmp_path))


def empty(folder):
    torch.save({}, folder / "empty.pt")
    return folder / "empty.pt"


@pytest.mark.parametrize("seed", [float("nan"), float("inf"), -1, 2**40, True, "3"])
def test_a_seed_that_is_none_is_not_known(capsys, saes, seed):
    path = saes[0] / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"]["seed"] = seed
    path.write_text(json.dumps(config))
    assert main(["stability", str(saes[0]), str(saes[1]), "--json"]) == 0
    assert [s["seed"] for s in json.loads(capsys.readouterr().out)["saes"]] == [None, 1]


def test_models_and_hooks_are_shown_and_compared(capsys, saes):
    for folder, hook in zip(saes, ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"), strict=False):
        config = json.loads((folder / "cfg.json").read_text())
        config["metadata"] |= {"model_name": "gpt2", "hook_name": hook}
        (folder / "cfg.json").write_text(json.dumps(config))
    assert main(["stability", *map(str, saes[:2])]) == 0
    table = capsys.readouterr().out
    assert "gpt2" in table and "they name different hooks (blocks.0.hook_mlp_out, " in table


def test_a_terminal_without_the_letters_of_a_path_shows_their_numbers(saes, tmp_path):
    folders = [shutil.copytree(saes[i], tmp_path / f"s\u00e9{i}\u2013") for i in (0, 1)]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "husai", "stability", *map(str, folders)],
        env={**os.environ, **ascii_only},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"PWMCC" in done.stdout
