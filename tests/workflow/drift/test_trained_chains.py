"""The whole way on files: SAEs trained in chains on planted rows, measured and tabulated."""

from pathlib import Path

import pandas as pd
import pytest

from workflow.config.sae_settings import SaeSettings
from workflow.formats.activations import CorruptShard, RowFilter
from workflow.formats.shards import write_shard
from workflow.saes.training import Place, train_sae

ANGLE = 0.4
SETTINGS = SaeSettings(k=3, expansion=1, epochs=20, batch=64, lr=1e-2)


def train(folder: Path, chain: str, stage: str, hop: int, rows: Path, warm: Path | None) -> Path:
    """Train one SAE of a chain; its manifest."""
    out = folder / "trained" / chain / stage
    source = "base" if chain == "null" else stage
    train_sae(
        train_manifests=[rows], val_manifests=[rows], warm=warm, sae=out / "sae.safetensors", history=out / "history.csv",
        manifest=out / "manifest.json", place=Place("strict", "fixed", "topk", chain, 0, stage, 5, hop, f"hop_{hop}", source),
        settings=SETTINGS, keep=RowFilter(1, 10.0), device="cpu", key="key",
    )  # fmt: skip
    return out / "manifest.json"


def training_rows(world, hop: int, stage: str) -> Path:
    """A store of fresh prompts under the same directions, its test rows renamed to train."""
    other = world(angle=ANGLE, prompts=120, seed=10 + hop)
    rows = other.rows.to_pandas().replace({"split": {"test": "train"}})
    table = other.rows.from_pandas(rows, schema=other.rows.schema, preserve_index=False)
    path = other.folder / f"hop_{hop}_{stage}" / "shard_000.json"
    return write_shard(
        path, other.x[stage], table, layer=5, meaning={"stage": stage, "part": f"hop_{hop}", "shard": "000"}
    ).manifest


def test_trained_chains_tell_a_rotation_from_refit(world):
    planted = world(angle=ANGLE).write()
    stage = "ppo_0008"
    base = train(planted.folder, "real", "base", 0, training_rows(world, 0, "base"), None)
    real = train(planted.folder, "real", stage, 1, training_rows(world, 1, stage), base)
    null = train(planted.folder, "null", stage, 1, training_rows(world, 1, "base"), base)
    planted.saes, planted.stores = [base, real, null], planted.stores[:2]
    tables = planted.tabulate(planted.measure(stages=list(planted.STAGES[:2])))
    rows = pd.read_parquet(tables["decomposition"])
    row = rows[rows["sinks"] == "dropped"].iloc[0]
    assert row["shift_low"] > 0.03
    assert row["adaptation_high"] < 0
    assert row["contrast_high"] < 0
    assert abs(row["delta"]) < 0.3 * row["shift"], "the chain by itself hides the change"
    assert row["delta"] == pytest.approx(row["shift"] + row["null_refit"] + row["adaptation"], abs=1e-12)
    latents = pd.read_parquet(tables["latents"])
    own = latents[(latents["chain"] == "real") & (latents["stage"] == stage) & latents["alive"] & ~latents["reinitialised"]]
    assert own["cosine_excess"].nlargest(3).min() > 0.03, "some latents turned with the rows"


def test_a_damaged_shard_is_set_aside(world):
    planted = world().write()
    chunk = planted.stores[1].with_suffix(".zarr") / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[5] ^= 255
    chunk.write_bytes(content)
    with pytest.raises(CorruptShard, match="must be intact in chunk 0"):
        planted.measure()
    assert not planted.stores[1].exists()
    assert planted.stores[0].exists()
