"""Training one SAE from stores to files: what is written, what chains share, how a killed job goes on, what is refused."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from planted_stores import LAYER, WIDTH, planted_store, sae_arguments
from safetensors.torch import load_file

from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, ShuffledBatches
from workflow.formats.saes import read_sae
from workflow.formats.shards import shard_files
from workflow.saes import training
from workflow.saes.starting import rows_by_position, stream
from workflow.saes.training import train_sae

FILES = ("sae.safetensors", "history.csv", "manifest.json")
Stores = dict[str, list[Path]]


def train(folder: Path, stores: Stores, **changes: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    train_sae(**sae_arguments(folder, stores, **changes))
    return json.loads((folder / "manifest.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_the_files_are_those_of_the_contract(tmp_path: Path, stores: Stores):
    manifest = train(tmp_path, stores)
    tensors = load_file(tmp_path / "sae.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {
        "W_enc": (36, WIDTH), "W_dec": (36, WIDTH), "b_enc": (36,), "b_dec": (WIDTH,), "b_pre": (WIDTH,), "scale": (),
        "firing_rate": (36,), "reinitialised": (36,),
    }  # fmt: skip
    torch.testing.assert_close(tensors["W_dec"].norm(dim=1), torch.ones(36))
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history) == ["epoch", "update", "train_loss", "nmse", "l0", "dead_share", "resampled", "lr"]
    best = history.loc[history["nmse"].idxmin()]
    assert (manifest["best_epoch"], manifest["nmse"], manifest["l0"]) == (best["epoch"], best["nmse"], best["l0"])
    assert manifest["artefact"] == "sae"
    assert (manifest["rows"], manifest["held_out_rows"], manifest["updates"]) == (300, 150, 3 * (300 // 32))
    assert manifest["parent"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES), "nothing else may stay"


def test_training_learns_the_planted_rows_and_leaves_sinks_out(tmp_path: Path, stores: Stores):
    assert train(tmp_path / "few", stores, epochs=1)["nmse"] > 0.25
    assert train(tmp_path / "many", stores, epochs=40, resample_epochs=10)["nmse"] < 0.15


def test_the_same_job_gives_the_same_bytes(tmp_path: Path, stores: Stores):
    for name in ("one", "two"):
        train(tmp_path / name, stores)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("kind", ["topk", "topk_signed"])
def test_reading_gives_back_what_was_trained(tmp_path: Path, stores: Stores, kind: str):
    manifest = train(tmp_path, stores, kind=kind)
    stored = read_sae(tmp_path / "manifest.json")
    assert stored.model.relu == (kind == "topk")
    assert stored.facts["digest"] == manifest["digest"]
    assert stored.extras["reinitialised"].dtype == torch.bool


def test_a_warm_start_takes_over_every_tensor_and_the_marks(tmp_path: Path, stores: Stores):
    base = train(tmp_path / "base", stores, epochs=4)
    hop = train(tmp_path / "hop", stores, rows="moved", warm=tmp_path / "base/manifest.json", lr=1e-9, resample_epochs=0, epochs=1)
    before, after = load_file(tmp_path / "base/sae.safetensors"), load_file(tmp_path / "hop/sae.safetensors")
    assert hop["parent"] == base["digest"]
    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "b_pre"):
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    assert torch.equal(after["scale"], before["scale"])
    assert bool(before["reinitialised"].any()), "the test must cover marked latents"
    assert torch.equal(after["reinitialised"], before["reinitialised"])


def test_real_and_null_differ_in_rows_alone(tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch):
    seeds: list[int] = []
    plain = ShuffledBatches.__init__

    def noted(self: ShuffledBatches, store: Any, batch: int, buffer_rows: int, seed: int) -> None:
        seeds.append(seed)
        plain(self, store, batch, buffer_rows, seed)

    train(tmp_path / "base", stores)
    monkeypatch.setattr(ShuffledBatches, "__init__", noted)
    warm = tmp_path / "base/manifest.json"
    real = train(tmp_path / "real", stores, rows="moved", warm=warm, stage="ppo_0008", run="strict", source_stage="ppo_0008")
    null = train(tmp_path / "null", stores, rows="base", warm=warm, stage="ppo_0008", run="strict", chain="null")
    assert real["rows"] < null["rows"], "the stores must differ in how many rows the norm filter drops"
    assert real["updates"] == null["updates"]
    assert seeds[0] == seeds[1]
    assert real["digest"] != null["digest"]
    again = train(tmp_path / "other", stores, rows="base", warm=warm, stage="ppo_0016", run="flexible", chain="null")
    assert again["digest"] == null["digest"], "run, chain and stage name no random stream"


def test_random_streams_depend_on_seed_layer_and_hop(stores: Stores, tmp_path: Path):
    place = sae_arguments(tmp_path, stores)["place"]
    assert stream(place, "rows") == stream(place._replace(run="a", chain="null", stage="x", text="y", source_stage="z"), "rows")
    others = [place._replace(seed=1), place._replace(layer=4), place._replace(hop=1)]
    assert len({stream(each, purpose) for each in [place, *others] for purpose in ("rows", "resampling")}) == 8


def test_the_updates_follow_from_positions_not_from_norms(stores: Stores):
    assert [rows_by_position(stores[name], RowFilter(1, 10.0)) for name in ("base", "moved")] == [300, 300]


KILLED = """
import os, pickle, signal, sys
import torch
torch.set_num_threads(1)
from workflow.saes import training
from workflow.saes.training import train_sae

MOMENTS = {
    "after some updates": (torch, "save", 12),
    "while validating": (training.HeldOutRows, "quality", 2),
    "while publishing": (training, "write_text", 1),
}

def die_in(moment, arguments):
    owner, name, calls = MOMENTS[moment]
    plain, count = getattr(owner, name), 0

    def dying(*args, **kwargs):
        nonlocal count
        result, count = plain(*args, **kwargs), count + 1
        if count == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)
    train_sae(**arguments, save_seconds=0)

# one child each: importing once and forking before anything runs saves the seconds of importing thrice
for moment, arguments in pickle.load(sys.stdin.buffer).items():
    child = os.fork()
    if not child:
        die_in(moment, arguments)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, moment
"""
MOMENTS = {"after some updates": 11, "while validating": 17, "while publishing": 26}
"""When the job is killed, and the updates that are not done again."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, stores: Stores) -> dict[str, dict[str, Any]]:
    """Arguments of trainings that were killed at each moment."""
    folder = tmp_path_factory.mktemp("killed")
    jobs = {moment: sae_arguments(folder / moment, stores) for moment in MOMENTS}
    for moment in MOMENTS:
        (folder / moment).mkdir()
    command, root = [sys.executable, "-c", KILLED], Path(__file__).parents[3]
    done = subprocess.run(command, input=pickle.dumps(jobs), cwd=root, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return jobs


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_training_goes_on_to_the_same_bytes(
    tmp_path: Path, stores: Stores, killed: dict[str, dict[str, Any]], moment: str
):
    train(tmp_path, stores)
    folder = Path(killed[moment]["sae"]).parent
    assert not (folder / "manifest.json").exists()
    assert train_sae(**killed[moment])["resumed_at_update"] == MOMENTS[moment]
    assert contents(folder) == contents(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_state_of_other_settings_is_not_taken_up(tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_sae", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_sae(**sae_arguments(tmp_path, stores), save_seconds=0)
    monkeypatch.undo()
    assert list(tmp_path.glob(".partial/*/trainer.pt"))
    other = sae_arguments(tmp_path, stores, lr=5e-3) | {"key": "another"}
    assert train_sae(**other)["resumed_at_update"] == 0


def test_too_large_a_k_is_refused_in_the_users_words(tmp_path: Path, stores: Stores):
    with pytest.raises(ConfigError) as refused:
        train(tmp_path, stores, k=37)
    assert str(refused.value) == (
        "saes.k must be at most d_sae = 36 (expansion 3 × d_model 12); got 37. Lower saes.k or raise saes.expansion."
    )


def test_too_long_a_warm_up_is_refused(tmp_path: Path, stores: Stores):
    with pytest.raises(ConfigError, match=r"saes\.warmup_updates must be below the updates of a hop, 27 .*; got 27\. Lower it"):
        train(tmp_path, stores, warmup_updates=27)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expansion": 2}, "same d_sae as the SAE that starts from it, 24; .* has 36"),
        ({"k": 3}, "same k .*, 3; .* has 2"),
        ({"kind": "topk_signed"}, "same kind .*, topk_signed; .* has topk"),
        ({"seed": 1}, "same seed .*, 1; .* has 0"),
    ],
)
def test_a_warm_start_of_another_shape_is_refused(tmp_path: Path, stores: Stores, change: dict[str, Any], message: str):
    train(tmp_path / "base", stores, epochs=1)
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "hop", stores, warm=tmp_path / "base/manifest.json", **change)


def test_a_store_of_another_layer_is_refused(tmp_path: Path, stores: Stores):
    with pytest.raises(ConfigError, match=r"must have layer, width and hook point \(9, 12, .*got \(3, 12"):
        train(tmp_path, stores, layer=LAYER + 6)


def test_held_out_rows_are_of_the_split_val(tmp_path: Path, stores: Stores):
    with pytest.raises(ConfigError, match="must leave rows"):
        train(tmp_path, stores | {"val": stores["base"]})


def test_divergence_names_the_settings(tmp_path: Path, stores: Stores):
    with pytest.raises(ConfigError, match=r"must stay finite.*settings: saes\.lr"):
        train(tmp_path, stores, lr=1e30, grad_clip=1e30)


def test_a_damaged_shard_is_set_aside_and_named(tmp_path: Path, stores: Stores):
    train_store = planted_store(tmp_path / "store", "train")
    chunk = shard_files(train_store[1]).array / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ConfigError, match=r"shard_001\.zarr must be intact in chunk 1"):
        train(tmp_path / "sae", stores | {"base": train_store})
    assert not train_store[1].exists()
    assert train_store[0].exists()
    assert (tmp_path / "store/shard_001.json.corrupt").exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, stores: Stores):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=r"compute\.device: cuda needs a GPU"):
        train_sae(**sae_arguments(tmp_path, stores) | {"device": "cuda"})
