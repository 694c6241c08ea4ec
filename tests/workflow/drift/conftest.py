"""A planted world on disk: rows of known directions, SAEs that know them, and a known change between the stages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from sae_core.kernels.choice import BackendName
from workflow.config.drift import DriftConfig
from workflow.config.recipes import Recipe
from workflow.drift.inputs import Cell
from workflow.drift.measuring import Scope, measure_drift
from workflow.drift.tables import drift_tables
from workflow.formats.activations import RowFilter
from workflow.formats.claim_columns import CLAIM_TABLES
from workflow.formats.drift_columns import TABLES
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.shards import write_shard

D, K, LENGTH, TRACES = 16, 3, 7, 2
LAYER = 5


class World:
    """Stores and SAEs of a run with two stages behind base.

    Every row is 3 of 16 orthonormal directions, an offset and noise; position 0 is a sink of a hundred times the norm. Behind base
    the first six directions are rotated by `angle` per stage. S_t, C_t and R_t know the directions of their stage, U_t those of
    base; C_t was not turned by training, R_t otherwise than S_t.
    """

    STAGES = (("base", 0), ("ppo_0008", 8), ("ppo_0016", 16))

    def __init__(
        self, folder: Path, angle: float = 0.0, prompts: int = 40, text: str = "fixed", seed: int = 0, directions_seed: int = 0
    ) -> None:
        self.folder, self.angle, self.text = folder, angle, text
        self.problems = [f"p{number:012x}" for number in range(prompts)]
        self.chains = ["real", "null"]
        self.scale = 1.0
        self.k: dict[str, int] = {}
        self.draw = np.random.default_rng(seed)
        self.directions = np.linalg.qr(np.random.default_rng(directions_seed).normal(size=(D, D)))[0]
        self.rows = self._row_table()
        signal = self._signal()
        self.x = {name: self._vectors(signal, hop) for hop, (name, _) in enumerate(self.STAGES)}
        self.tables = dict.fromkeys(self.x, self.rows)
        self.parents: dict[tuple[str, str], str] = {}

    def dictionary(self, hop: int) -> np.ndarray:
        """Directions of a stage, rows of norm 1."""
        turned = self.directions.copy()
        cos, sin = np.cos(self.angle * hop), np.sin(self.angle * hop)
        for a, b in ((0, 1), (2, 3), (4, 5)):
            turned[a], turned[b] = (
                cos * self.directions[a] + sin * self.directions[b],
                cos * self.directions[b] - sin * self.directions[a],
            )
        return turned

    def _row_table(self) -> pa.Table:
        keys = [
            (problem, split, f"{problem}/reference/{sample}", pos)
            for split, problems in (("test", self.problems), ("val", ["q000000000000"]))
            for problem in problems
            for sample in range(TRACES)
            for pos in range(LENGTH)
        ]
        names = zip(*keys, strict=True)
        problem, split, trace, pos = map(list, names)
        return pa.table(
            {
                "problem": problem, "split": split, "trace": trace, "step": pa.array([0] * len(pos), pa.int16()),
                "pos": pa.array(pos, pa.int32()), "token": pa.array(self.draw.integers(0, 99, len(pos)), pa.int32()),
                "role": pa.array([2] * len(pos), pa.int8()),
            }
        )  # fmt: skip

    def _signal(self) -> np.ndarray:
        """Activations of the planted directions, the same for all stages; a prompt has a size of its own."""
        n = len(self.rows)
        sizes = dict(zip(sorted(set(self.rows["problem"].to_pylist())), self.draw.gamma(4, 0.25, n), strict=False))
        strength = np.array([sizes[problem] for problem in self.rows["problem"].to_pylist()])
        chosen = np.argsort(self.draw.random((n, D)), axis=1)[:, :K]
        signal = np.zeros((n, D))
        np.put_along_axis(signal, chosen, strength[:, None] * self.draw.uniform(1, 2, (n, K)), axis=1)
        return signal

    def _vectors(self, signal: np.ndarray, hop: int) -> torch.Tensor:
        x = signal @ self.dictionary(hop) + 0.5 + 0.1 * self.draw.normal(size=signal.shape)
        sink = np.array(self.rows["pos"].to_pylist()) == 0
        x[sink] = 300 * self.directions[7] + self.draw.normal(size=(int(sink.sum()), D))
        return torch.tensor(x, dtype=torch.float32)

    def write(self) -> "World":
        """Put everything on disk."""
        self.stores = [self._write_store(name) for name, _ in self.STAGES]
        self.saes = [self._write_sae("real", "base", 0, None)]
        for chain in self.chains:
            parent: str | None = digest_of(self.saes[0])
            for hop, (stage, _) in enumerate(self.STAGES[1:], start=1):
                if chain in ("cold", "repeat"):
                    parent = digest_of(self.saes[hop]) if chain == "repeat" else None
                self.saes.append(
                    self._write_sae(chain, stage, 0 if chain == "null" else hop, self.parents.get((chain, stage), parent))
                )
                parent = digest_of(self.saes[-1])
        self.policies = [self._write_policy(name, update) for name, update in self.STAGES]
        return self

    def _write_store(self, stage: str) -> Path:
        path = self.folder / "activations" / stage / "shard_000.json"
        run = "shared" if stage == "base" else "strict"
        meaning = {"run": run, "text": self.text, "stage": stage, "part": "heldout", "shard": "000"}
        return write_shard(path, self.x[stage], self.tables[stage], layer=LAYER, chunk_rows=64, meaning=meaning).manifest

    def _write_sae(self, chain: str, stage: str, hop: int, parent: str | None) -> Path:
        folder = self.folder / "saes" / chain / stage
        folder.mkdir(parents=True, exist_ok=True)
        directions = torch.tensor(self.dictionary(hop), dtype=torch.float32)
        # a small turn of its own stands for refit: the same in real and null, as their updates are the same
        turn = np.random.default_rng(len(stage) + int(stage[-1:] == "6") + 50 * (chain == "repeat"))
        refit = torch.tensor(turn.normal(size=(D, D)), dtype=torch.float32)
        decoder = torch.nn.functional.normalize(directions + (0 if stage == "base" or chain == "cold" else 0.02 * refit), dim=1)
        reinitialised = torch.zeros(D, dtype=torch.bool)
        reinitialised[15] = stage != "base"
        tensors = {
            "W_enc": directions, "W_dec": decoder, "b_enc": torch.zeros(D), "b_pre": torch.full((D,), 0.5),
            "b_dec": torch.full((D,), 0.5), "scale": torch.tensor(self.scale), "firing_rate": torch.full((D,), K / D),
            "reinitialised": reinitialised,
        }  # fmt: skip
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae.safetensors")
        facts = {
            "run": "shared" if stage == "base" else "strict", "text": "fixed", "kind": "topk",
            "k": self.k.get(chain, K), "d_model": D, "d_sae": D,
            "hook_point": f"blocks.{LAYER}.hook_resid_post", "layer": LAYER, "chain": chain, "seed": 0, "stage": stage,
            "parent": parent, "digest": file_digest(folder / "sae.safetensors"),
        }  # fmt: skip
        write_manifest(folder / "manifest.json", "sae", **facts)
        return folder / "manifest.json"

    def _write_policy(self, stage: str, update: int) -> Path:
        path = self.folder / "policies" / stage / "manifest.json"
        kl = None if update == 8 else update / 100
        write_manifest(path, "policy", run="shared" if stage == "base" else "strict", stage=stage, update=update, kl=kl)
        return path

    def read_another_token(self, stage: str) -> None:
        """One row of a stage that is of another token than in the other stages."""
        tokens = np.array(self.rows["token"].to_pylist())
        tokens[9] += 1
        place = self.rows.schema.get_field_index("token")
        self.tables[stage] = self.rows.set_column(place, self.rows.schema.field(place), [tokens.astype(np.int32)])

    def scope(self, **changes: Any) -> Scope:
        """What is measured here."""
        drift = DriftConfig(batch_rows=changes.pop("batch_rows", 100), min_firings=5, min_prompts=3)
        cell = Cell("strict", self.text, "topk", 0, LAYER)
        scope = Scope(cell, list(self.STAGES), self.chains, RowFilter(1, 10.0), drift)
        return scope._replace(**changes)

    def measure(self, name: str = "drift", backend: BackendName = "auto", **changes: Any) -> Path:
        """Measure; the folder of the result."""
        out = self.folder / name
        measure_drift(
            stores=self.stores, saes=self.saes, sums=out / "sums.safetensors",
            tables={table: out / f"{table}.parquet" for table in ("latents", "dictionary", "lineage")},
            manifest=out / "manifest.json", scope=self.scope(**changes), device="cpu", key="key", backend=backend,
        )  # fmt: skip
        return out

    def tabulate(self, *measured: Path, name: str = "tables", replicates: int = 400) -> dict[str, Path]:
        """The tables of measurements; parquet files by table."""
        out = self.folder / name
        files = {table: (out / f"{table}.parquet", out / f"{table}.csv") for table in TABLES | CLAIM_TABLES}
        drift_tables(
            sums=[folder / "sums.safetensors" for folder in measured], manifests=[folder / "manifest.json" for folder in measured],
            latents=[folder / "latents.parquet" for folder in measured],
            dictionaries=[folder / "dictionary.parquet" for folder in measured],
            lineages=[folder / "lineage.parquet" for folder in measured], policies=self.policies, tables=files,
            manifest=out / "manifest.json", drift=DriftConfig(replicates=replicates),
            recipes={"strict": Recipe("strict", 0, "")},
        )  # fmt: skip
        return {table: parquet for table, (parquet, _) in files.items()}


def digest_of(manifest: Path) -> str:
    """The digest that an SAE's manifest states."""
    return json.loads(manifest.read_text())["digest"]


@pytest.fixture(scope="session")
def world_class() -> type[World]:
    """For fixtures that outlive a test."""
    return World


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """Makes planted worlds, not yet written to disk so that a test can change them."""

    def make(**settings: Any) -> World:
        return World(tmp_path / f"world_{len(list(tmp_path.iterdir()))}", **settings)

    return make


@pytest.fixture(scope="session")
def tabulated(tmp_path_factory: pytest.TempPathFactory) -> dict[float, dict[str, Path]]:
    """The tables of a world without change (0.0) and of one with a rotation of 0.4 per stage."""
    worlds = {angle: World(tmp_path_factory.mktemp("planted"), angle=angle).write() for angle in (0.0, 0.4)}
    return {angle: one.tabulate(one.measure()) for angle, one in worlds.items()}
