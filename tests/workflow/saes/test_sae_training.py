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
from planted_stores import KINDS, LAYER, WIDTH, planted_store, sae_arguments
from safetensors.torch import load_file, save_file

from sae_core.models.build import initial
from workflow.config.sae_settings import PRICED
from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, ShuffledBatches, Store
from workflow.formats.files import file_digest
from workflow.formats.saes import facts_of, read_sae
from workflow.formats.shards import shard_files
from workflow.saes import training
from workflow.saes.starting import AS_THEY_ARE, rows_by_position, stream, training_config
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


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_trained_and_read_back(tmp_path: Path, stores: Stores, kind: str):
    manifest = train(tmp_path, stores, kind=kind, epochs=20, resample_epochs=8)
    stored = read_sae(tmp_path / "manifest.json")
    assert (stored.facts["kind"], stored.facts["digest"]) == (kind, manifest["digest"])
    assert facts_of(stored.model.config).items() <= manifest.items()
    assert manifest["nmse"] < 0.35
    assert 1 < manifest["l0"] < 9, "of 36 latents"
    assert (manifest["k"] is None) == (kind in PRICED)
    assert (manifest["best_epoch"] == 20) or kind not in PRICED, "the last epoch is kept where activity has a price"
    rows = Store(stores["val"], RowFilter(1, 10.0), {"val"}).read()
    with torch.no_grad():
        error = (stored.model(rows) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
    assert float(error) == pytest.approx(manifest["nmse"], rel=1e-4), "the file computes what was measured"


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"normalise": "row_norm", "pre_bias": "decoder"}, {"normalise": "row_norm", "pre_bias": "decoder"}),
        ({"normalise": "layer_norm", "pre_bias": "none"}, {"normalise": "layer_norm", "pre_bias": "none"}),
        ({"normalise": "none"}, {"normalise": "scale", "pre_bias": "own"}),
    ],
)
def test_conventions_stand_in_the_manifest(tmp_path: Path, stores: Stores, settings: dict[str, Any], facts: dict[str, Any]):
    manifest = train(tmp_path, stores, **settings)
    assert facts.items() <= manifest.items()
    assert (float(read_sae(tmp_path / "manifest.json").model.scale) == 1) == (settings["normalise"] != "rms")


def test_every_setting_reaches_the_core(tmp_path: Path, stores: Stores):
    changes: dict[str, Any] = {
        "lr": 3e-3, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "schedule": "restarts", "restart_updates": 5, "lr_floor": 0.2,
        "warmup_updates": 2, "grad_clip": 2.0, "precision": "bf16", "frozen_decoder": False, "project_decoder": True,
        "aux_coef": 0.5, "aux_target": "input", "sparsity_coef": 0.3, "sparsity_warmup_updates": 7, "target_l0": 3.0,
        "bandwidth": 0.4, "threshold_rate": 0.3,
        "threshold_lr_multiple": 3.0,
        "dead_rate": 0.02, "resample_epochs": 0, "resample_updates": 3, "resample_from": "squared_loss", "patience": 2,
    }  # fmt: skip
    arguments = sae_arguments(tmp_path, stores, **changes, aux_k_multiple=3, warm_moments=True)
    found = training_config(arguments["settings"], arguments["place"], 300, 300)
    assert {name: getattr(found, name) for name in changes} == changes
    assert (found.updates, found.updates_per_epoch, found.aux_k, found.keep_moments) == (27, 9, 6, True)
    assert set(changes) - {"aux_k_multiple"} | {"batch", "resample_rows"} == set(AS_THEY_ARE)


def test_a_frozen_decoder_stays_random_while_the_encoder_learns(tmp_path: Path, stores: Stores):
    frozen = train(tmp_path / "frozen", stores, frozen_decoder=True)
    train(tmp_path / "free", stores)
    arguments = sae_arguments(tmp_path, stores, frozen_decoder=True)
    length = training_config(arguments["settings"], arguments["place"], 300, 300)
    assert (length.frozen_decoder, length.resample_epochs) == (True, 0)
    kept, free = (read_sae(tmp_path / name / "manifest.json").model for name in ("frozen", "free"))
    began = initial(kept.config, torch.randn(64, kept.config.d_model), stream(arguments["place"], "directions"))
    assert torch.equal(kept.W_dec, began.W_dec)
    assert not torch.allclose(kept.W_enc, began.W_enc, atol=1e-2)
    assert not torch.allclose(free.W_dec, began.W_dec, atol=1e-2)
    assert frozen["nmse"] < 1


def test_a_training_without_progress_ends_early_and_says_so(tmp_path: Path, stores: Stores):
    manifest = train(tmp_path, stores, lr=3.0, epochs=8, patience=1, resample_epochs=0)
    assert manifest["updates"] < 8 * 9
    assert manifest["updates"] == 9 * len(pd.read_csv(tmp_path / "history.csv"))


def test_a_warm_start_with_moments_goes_on_with_their_count(tmp_path: Path, stores: Stores):
    train(tmp_path / "base", stores, warm_moments=True)
    kept = train(tmp_path / "hop", stores, rows="moved", warm=tmp_path / "base/manifest.json", warm_moments=True)
    cold = train(tmp_path / "cold", stores, rows="moved", warm=tmp_path / "base/manifest.json")
    before, after = (read_sae(tmp_path / name / "manifest.json").moments for name in ("base", "hop"))
    assert before is not None
    assert after is not None
    assert after.count == before.count + 9 * kept["best_epoch"]
    assert kept["digest"] != cold["digest"]
    assert read_sae(tmp_path / "cold/manifest.json").moments is None
    with pytest.raises(ConfigError, match=r"saes\.warm_moments needs the moments of the SAE .*cold.* Train the chain from base"):
        train(tmp_path / "late", stores, warm=tmp_path / "cold/manifest.json", warm_moments=True)


def test_a_warm_start_takes_over_every_tensor(tmp_path: Path, stores: Stores):
    base = train(tmp_path / "base", stores, epochs=4)
    hop = train(tmp_path / "hop", stores, rows="moved", warm=tmp_path / "base/manifest.json", lr=1e-9, resample_epochs=0, epochs=1)
    before, after = load_file(tmp_path / "base/sae.safetensors"), load_file(tmp_path / "hop/sae.safetensors")
    assert hop["parent"] == base["digest"]
    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "b_pre"):
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    assert torch.equal(after["scale"], before["scale"])


def test_marks_say_what_was_reinitialised_since_base(tmp_path: Path, stores: Stores):
    still = {"rows": "moved", "resample_epochs": 0, "epochs": 1}
    train(tmp_path / "base", stores, epochs=4)
    first = train(tmp_path / "first", stores, warm=tmp_path / "base/manifest.json", **still)
    tensors = {name: load_file(tmp_path / name / "sae.safetensors") for name in ("base", "first")}
    assert bool(tensors["base"]["reinitialised"].any()), "the test must cover latents marked in base's own training"
    assert not bool(tensors["first"]["reinitialised"].any())
    tensors["first"]["reinitialised"][3] = True
    save_file(tensors["first"], tmp_path / "first/sae.safetensors")
    first["digest"] = file_digest(tmp_path / "first/sae.safetensors")
    (tmp_path / "first/manifest.json").write_text(json.dumps(first))
    train(tmp_path / "second", stores, warm=tmp_path / "first/manifest.json", **still)
    assert load_file(tmp_path / "second/sae.safetensors")["reinitialised"].nonzero().flatten().tolist() == [3]


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
from workflow.saes import publishing, training
from workflow.saes.training import train_sae

MOMENTS = {
    "after some updates": (torch, "save", 12),
    "while validating": (training.HeldOutRows, "qualities", 2),
    "while publishing": (publishing, "write_text", 1),
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

    monkeypatch.setattr(training, "publish_sae", interrupted)
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
        ({"kind": "batchtopk"}, "same kind .*, batchtopk; .* has topk"),
        ({"seed": 1}, "same seed .*, 1; .* has 0"),
        ({"pre_bias": "decoder"}, "same pre_bias .*, decoder; .* has own"),
        ({"normalise": "layer_norm"}, "same normalise .*, layer_norm; .* has scale"),
        ({"normalise": "none"}, "same scale .*, 1.0; "),
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


def test_fewer_rows_than_a_batch_are_refused_with_numbers(tmp_path: Path, stores: Stores):
    train(tmp_path / "all", stores, batch=300, epochs=1)
    message = (
        r"saes\.batch must be at most the rows .*, 300 in part hop_0 of base \(text fixed, layer 3\); got 301\. Lower saes\.batch"
    )
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, stores, batch=301)
    with pytest.raises(ConfigError, match=r"293 in part hop_0 of base .*; got 300"):
        train(tmp_path, stores, rows="moved", batch=300)


@pytest.mark.parametrize("kind", ["topk", "gated"])
def test_divergence_names_the_update_the_settings_and_where_the_last_good_state_lies(tmp_path: Path, stores: Stores, kind: str):
    with pytest.raises(ConfigError, match=r"must stay finite; at update \d.*settings: saes\.lr") as refused:
        train(tmp_path, stores, kind=kind, lr=1e30, grad_clip=1e30)
    good = tmp_path / f".partial/sae.safetensors.k/last_good_{kind}.safetensors"
    assert f"after update 0, lie in {good}" in str(refused.value)
    tensors = load_file(good)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    torch.testing.assert_close(tensors["W_dec"].norm(dim=1), torch.ones(36))


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
