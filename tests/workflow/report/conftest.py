"""A made-up study on disk: every input of the report, with numbers drawn from a seed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_probes import made_up_probes

from workflow.config.recipes import Recipe
from workflow.drift.gate import claim_rows
from workflow.formats.claim_columns import Claim
from workflow.formats.drift_columns import TABLES, Transfer, schema
from workflow.formats.intervention_columns import Causal, Outputs, Solving, Splice
from workflow.formats.manifest import write_manifest
from workflow.formats.probe_columns import PROBE_TABLES
from workflow.formats.step_columns import StepDecomposition, StepLatent, StepTransfer
from workflow.formats.table_files import arrow_table

ESTIMATE_ENDS = ("", "_low", "_high")


class MadeUp:
    """Writes one study below a folder and knows the paths and tables that the report takes."""

    def __init__(
        self, folder: Path, *, runs: dict[str, dict[str, Any]], updates: list[int], layers: list[int], seeds: list[int],
        chains: list[str], texts: list[str], given: bool, drifting: float, latents: int, kinds: list[str],
    ) -> None:  # fmt: skip
        self.root = folder / "results"
        self.rng = np.random.default_rng(7)
        self.runs, self.updates, self.layers, self.seeds, self.chains = runs, updates, layers, seeds, chains
        self.texts, self.given, self.drifting, self.n_latents, self.kinds = texts, given, drifting, latents, kinds
        self.stages = ["base", *(f"ppo_{update:04d}" for update in updates)]
        self.update = dict(zip(self.stages, [0, *updates], strict=True))
        self.tables: dict[str, list[dict[str, Any]]] = {"quality": [], "transfer": [], "decomposition": [], "latents": []}
        self.tables |= {"dictionary": [], "lineage": []}
        self.inputs = self._write()

    @property
    def study(self) -> dict[str, Any]:
        """The resolved configuration."""
        policies = {"source": "given" if self.given else "trained", "model": "embedded:SmolLM2-135M-Instruct", "batch": 16,
                    "reward": "strict", "seed": 0, "kl_coef": 0.005,
                    "given": {run: [] for run in self.runs} if self.given else {}, "stages": self.updates}  # fmt: skip
        return {"problems": {"source": "reasoning_gym:chain_sum"}, "policies": policies,
                "design": {"runs": {} if self.given else self.runs, "layers": self.layers, "texts": self.texts, "kinds": self.kinds,
                           "chains": self.chains},
                "saes": {"k": 32, "expansion": 4, "text": self.texts[0]}}  # fmt: skip

    def arguments(self, out: Path) -> dict[str, Any]:
        """The arguments of `write_report`."""
        return {"inputs": self.inputs, "report": out / "report.html", "figures": out / "figures",
                "summary_json": out / "summary.json", "title": "What did reinforcement learning change?", "study": self.study,
                "drift": {"replicates": 200, "confidence": 0.95, "seed": 0}, "key": "k"}  # fmt: skip

    def rewrite(self, table: str, frame: pd.DataFrame) -> None:
        """Put another table in the place of one."""
        frame.to_parquet(self.root / f"drift/{table}.parquet", index=False)

    def _write(self) -> dict[str, Any]:
        found: dict[str, Any] = {"problems": self._manifest("problems/manifest.json", "problems", problems=6000, digest="a" * 64)}
        homes = [("shared", "base"), *((run, stage) for run in self.runs for stage in self.stages[1:])]
        found["policies"] = [self._policy(run, stage) for run, stage in homes]
        found["curves"] = [] if self.given else [self._curve(run, stage) for run, stage in homes[1:]]
        found["warmup_curve"] = None if self.given else self._warmup()
        found["greedy"], found["greedy_traces"] = map(list, zip(*(self._greedy(*home) for home in homes), strict=True))
        found["traces"] = [
            self._manifest(f"traces/{run}/onpolicy/{stage}/manifest.json", "traces", run=run, stage=stage, digest="b" * 64)
            for run, stage in homes
        ]
        found["shards"] = [
            self._manifest(f"activations/{run}/fixed/{stage}/layer_{layer}/heldout/shard_000.json", "activation_shard", layer=layer,
                           rows=12345, d_model=576, digest="c" * 64) for run, stage in homes for layer in self.layers
        ]  # fmt: skip
        folders = [
            self._sae(run, kind, chain, seed, stage, layer) for run, stage in homes for kind in self.kinds
            for chain in (["real"] if stage == "base" else self.chains) for seed in self.seeds for layer in self.layers
        ]  # fmt: skip
        found["saes"] = [str(folder / "manifest.json") for folder in folders]
        found["histories"] = [str(folder / "history.csv") for folder in folders]
        self._measure()
        for name, rows in self.tables.items():
            found[name] = self._table(name, rows, TABLES[name])
        found["interventions"], found["ssae"] = {}, {}
        found["claims"] = self._claims(found["decomposition"])
        found["provenances"] = [self._provenance(f"policies/{run}/{stage}", "ppo_stage", i) for i, (run, stage) in enumerate(homes)]
        found["provenances"].append(self._provenance("drift", "drift_tables", 9))
        return found

    def intervene(self) -> None:
        """Add the tables of interventions on the last stage."""
        last = self.stages[-1]
        cells = [{"run": run, "text": text, "kind": kind, "seed": seed, "layer": layer} for run in self.runs for text in self.texts
                 for kind in self.kinds for seed in self.seeds for layer in self.layers]  # fmt: skip
        where = {"stage": last, "update": self.update[last], "prompts": 32, "tokens": 600}
        saes = [("real", last, 0.2), *([("null", last, 0.25)] if "null" in self.chains else []), ("real", "base", 0.3)]
        splice = [
            {**cell, **where, "chain": chain, "sae_stage": stage, "ce": 1.0, "ce_spliced": 1 + loss, "ce_mean": 5.0, "ce_zero": 9.0,
             **self._estimate("delta_ce", loss, 0.1), **self._estimate("kl", loss, 0.1),
             **self._estimate("recovered_mean", 1 - loss / 4, 0.02), **self._estimate("recovered_zero", 1 - loss / 8, 0.02)}
            for cell in cells for chain, stage, loss in saes
        ]  # fmt: skip
        outputs = [
            {**where, "run": run, "text": text, "entropy": 0.4, "entropy_base": 0.8, "ce": 0.4, "ce_base": 0.6,
             **self._estimate("kl", 0.1, 0.01), **self._estimate("kl_reverse", 0.2, 0.01), **self._estimate("entropy_change", -0.4)}
            for run in self.runs for text in self.texts
        ]  # fmt: skip
        acts = [*(("zero", 0.0, group) for group in ("drifted", "random", "null")),
                *(("steer", 2.0, group) for group in ("drifted", "random", "null")),
                *(("transplant", 0.0, group) for group in ("drifted", "random", "null", "all", "all_null"))]  # fmt: skip
        causal = [
            {**cell, **where, "action": action, "strength": strength, "group": group, "members": 4, "delta_ce_least": -0.01,
             "delta_ce_most": 0.05, "kl_least": 0.0, "kl_most": 0.1, **self._estimate("delta_ce", 0.01, 0.01),
             **self._estimate("kl", 0.02 * (1 + strength), 0.01),
             **(self._estimate("kl_change", -0.01, 0.01) if action == "transplant" else {})}
            for cell in cells for action, strength, group in acts
        ]  # fmt: skip
        shared = {name: value for name, value in where.items() if name != "tokens"}
        solving = [
            {**cell, **shared, "chain": chain, "sae_stage": stage, "rule": rule, "right_right": 9, "right_wrong": 4,
             "wrong_right": 1, "wrong_wrong": 18, "same": 0.5, "finished": 1.0, "finished_spliced": 0.75, "response_tokens": 20.0,
             "response_tokens_spliced": 30.0, **self._estimate("accuracy", 0.41, 0.1),
             **self._estimate("accuracy_spliced", 0.31, 0.1), **self._estimate("change", -0.1, 0.05)}
            for cell in cells if cell["text"] == self.texts[0] for chain, stage, _ in saes for rule in ("strict", "flexible")
        ]  # fmt: skip
        tables = {
            "splice": (splice, Splice),
            "outputs": (outputs, Outputs),
            "solving": (solving, Solving),
            "causal": (causal, Causal),
        }
        self.inputs["interventions"] = {name: self._table(name, rows, table) for name, (rows, table) in tables.items()}

    def rebuild_steps(self, **less: None) -> None:
        """Add step-level SAEs of base and of the last stage of every run, with their tables; those in `less` are left out."""
        last = self.stages[-1]
        cells = [("shared", "real", "base"), *((run, chain, last) for run in self.runs for chain in ("real", "null"))]
        histories = []
        for run, chain, stage in cells:
            folder = f"ssae/models/{run}/{chain}/seed_0/{stage}"
            self._manifest(f"{folder}/manifest.json", "step_sae", target_l1=4.0, digest="d" * 64)
            rows = [{"update": 8 * at, "epoch": at, "lr": 1e-4, "weight": 0.01, "train_nll": 3 / at, "train_l1": 5.0,
                     "nll": 2.5 / at, "l1": 4 + 2 / at, "l0": 40 / at, "active_share": 0.08 / at}
                    for at in (1, 2, 3)]  # fmt: skip
            pd.DataFrame(rows).to_csv(self._path(f"{folder}/history.csv"), index=False)
            histories.append(str(self._path(f"{folder}/history.csv")))
        place = {"text": "onpolicy", "seed": 0, "prompts": 30}
        transfer = [
            {**place, "run": run, "chain": "real", "ssae_stage": stage, "stage": last, "update": 16, "steps": 60, "tokens": 900,
             **self._estimate("nll", 0.5, 0.1), **self._estimate("nll_mean_code", 0.9, 0.1),
             **self._estimate("code_gain", 0.4, 0.1), **self._estimate("l1", 4.0, 0.1), **self._estimate("l0", 40.0, 1.0),
             **self._estimate("excess", 0.1)}
            for run in self.runs for stage in ("base", last)
        ]  # fmt: skip
        terms = [
            {**place, "run": run, "stage": last, "update": 16, **self._estimate("delta", -0.2), **self._estimate("shift", -0.1),
             **self._estimate("refit", -0.1), **self._estimate("null_refit", -0.05), **self._estimate("adaptation", -0.05)}
            for run in self.runs
        ]  # fmt: skip
        latents = [
            {**place, "run": run, "chain": chain, "stage": last, "update": 16, "latent": at, "frozen_rate": 0.3,
             "frozen_alive": True, "frozen_rate_base": 0.2, "frozen_alive_base": at > 1, "rate_tested": at > 0,
             "rate_q": [None, 0.01, 0.2, 0.9][at], "rate_confirmed": [None, True, False, False][at], "stable_q": 0.5,
             **({"appeared": at == 1, "vanished": False} if chain == "null" else {})}
            for run in self.runs for chain in ("real", "null") for at in range(4)
        ]  # fmt: skip
        made = {
            "histories": histories,
            "latents": self._table("ssae_latents", latents, StepLatent),
            "transfer": self._table("ssae_transfer", transfer, StepTransfer),
            "decomposition": self._table("ssae_decomposition", terms, StepDecomposition),
        }
        self.inputs["ssae"] = {name: paths for name, paths in made.items() if name not in less}

    def probe(self) -> None:
        """Add the tables of probes of base and of the last stage of the first run, on every layer."""
        rows = made_up_probes(next(iter(self.runs)), self.stages[-1], self.layers, self._estimate)
        self.inputs["probes"] = {name: self._table(name, found, PROBE_TABLES[name]) for name, found in rows.items()}

    def _path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _claims(self, decomposition: str) -> str:
        """The claim gate's own verdicts on the made-up decomposition."""
        recipes = {run: Recipe(run, None, "") for run in self.runs}
        if not self.given:
            rest = {
                run: repr({name: own[name] for name in sorted(own) if name not in ("reward", "seed")})
                for run, own in self.runs.items()
            }
            recipes = {run: Recipe(own.get("reward", "strict"), own.get("seed", 0), rest[run]) for run, own in self.runs.items()}
        path = self.root / "drift/claims.parquet"
        pq.write_table(
            arrow_table(claim_rows(pd.read_parquet(decomposition), pd.DataFrame(), pd.DataFrame(), recipes), Claim), path
        )
        return str(path)

    def _manifest(self, name: str, artefact: str, **fields: Any) -> str:
        write_manifest(self._path(name), artefact, **fields)
        return str(self.root / name)

    def _policy(self, run: str, stage: str) -> str:
        kl = None if self.given else 0.02 * self.update[stage]
        source = "given:model" if self.given else "trained"
        return self._manifest(f"policies/{run}/{stage}/manifest.json", "policy", run=run, stage=stage, update=self.update[stage],
                              kl=kl, source=source, layers=30, d_model=576, model_digest="d" * 64)  # fmt: skip

    def _curve(self, run: str, stage: str) -> str:
        last = self.update[stage]
        first = self.update[self.stages[self.stages.index(stage) - 1]] + 1
        update = np.arange(first, last + 1)
        rise = 1 - np.exp(-update / 20) if self.runs[run].get("reward") != "permuted" else 0 * update
        noise = self.rng.normal(size=(4, len(update)))
        strict = np.clip(0.1 + 0.5 * rise + 0.06 * noise[0], 0, 1)
        frame = pd.DataFrame({
            "update": update, "reward": strict, "strict": strict, "flexible": np.clip(strict + 0.12 + 0.03 * noise[1], 0, 1),
            "kl": 0.02 * update, "entropy": 1.2 - 0.3 * rise, "response_tokens": 14 - 3 * rise + noise[2],
            "finished": np.clip(0.8 + 0.15 * rise + 0.02 * noise[3], 0, 1), "policy_loss": 0.01 * noise[0], "value_loss": 0.1,
            "clip_share": 0.05, "grad_norm": 1.0,
        })  # fmt: skip
        path = self._path(f"policies/{run}/{stage}/curve.csv")
        frame.to_csv(path, index=False)
        return str(path)

    def _warmup(self) -> str:
        path = self._path("policies/shared/base/curve.csv")
        pd.DataFrame({"update": [1, 2, 3, 4], "loss": [3.1, 2.0, 1.2, 0.9]}).to_csv(path, index=False)
        return str(path)

    def _greedy(self, run: str, stage: str) -> tuple[str, str]:
        chance = 0.12 + 0.4 * (1 - np.exp(-self.update[stage] / 20))
        luck = np.random.default_rng(3).uniform(size=192) + 0.1 * self.rng.normal(size=192)
        strict = luck < chance
        flexible = strict | (luck < chance + 0.1)
        frame = pd.DataFrame({"problem": [f"p{i:012x}" for i in range(192)], "strict": strict, "flexible": flexible})
        folder = f"traces/{run}/greedy/{stage}"
        path = self._path(f"{folder}/traces.parquet")
        frame.to_parquet(path, index=False)
        return self._manifest(f"{folder}/manifest.json", "traces", digest="e" * 64), str(path)

    def _sae(self, run: str, kind: str, chain: str, seed: int, stage: str, layer: int) -> Path:
        name = f"saes/{run}/{self.texts[0]}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}"
        self._manifest(f"{name}/manifest.json", "sae", run=run, text=self.texts[0], kind=kind, chain=chain, seed=seed, stage=stage,
                       layer=layer, k=None if kind == "relu" else 32, d_model=576, d_sae=2304, nmse=0.2, l0=31.5 + seed,
                       digest="f" * 64)  # fmt: skip
        epoch = np.arange(1, 6)
        start = 0.8 if stage == "base" else 0.25
        frame = pd.DataFrame({"epoch": epoch, "update": 100 * epoch, "loss": 0.3, "nmse": 0.2 + (start - 0.2) * np.exp(-epoch),
                              "l0": 31.5, "dead_share": 0.2 * np.exp(-epoch / 2), "resampled": 0, "lr": 1e-3})  # fmt: skip
        frame.to_csv(self.root / name / "history.csv", index=False)
        return self.root / name

    def _provenance(self, folder: str, rule: str, index: int) -> str:
        path = self._path(f"{folder}/provenance.json")
        path.write_text(json.dumps({
            "rule": rule, "seconds": 12.5 + index, "peak_memory_gib": 1.25, "commit": "0123abc",
            "started": f"2030-01-0{1 + index % 9}T00:00:00", "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
            "notes": {"device": "cpu", "dtype": "float32", "engine": "transformers"},
            "machine": {"cpu": "A <Processor> & Co", "cores": 2, "gpu": None, "memory_gib": 7.8, "python": "3.11", "host": "here"},
        }))  # fmt: skip
        return str(path)

    def _table(self, name: str, rows: list[dict[str, Any]], table: type) -> str:
        path = self._path(f"drift/{name}.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=schema(table)), path)
        return str(path)

    def _measure(self) -> None:
        for run in self.runs:
            for text in self.texts:
                for kind in self.kinds:
                    for seed in self.seeds:
                        for layer in self.layers:
                            self._cell({"run": run, "text": text, "kind": kind, "seed": seed, "layer": layer})

    def _cell(self, cell: dict[str, Any]) -> None:
        moved = {stage: self.drifting * (1 - np.exp(-self.update[stage] / 15)) * (1 + cell["layer"] / 20) for stage in self.stages}
        refit = {stage: -0.004 * (1 - np.exp(-self.update[stage] / 10)) for stage in self.stages}
        base = 0.18 + 0.003 * cell["layer"] + 0.001 * cell["seed"]
        for sinks, scale in (("dropped", 1.0), ("included", 0.4)):
            for stage in self.stages:
                own = base + 0.35 * moved[stage] + refit[stage]
                self._quality(cell, stage, sinks, scale * own, scale * (base + refit[stage]))
                for store in self.stages:
                    gap = abs(moved[stage] - moved[store])
                    nmse = base + refit[stage] + 0.35 * moved[store] + 0.65 * gap
                    self._transfer(cell, "real", stage, store, sinks, scale * nmse, scale * 0.65 * gap)
                if stage != "base":
                    for store in ("base", stage) if "null" in self.chains else ():
                        nmse = base + refit[stage] + moved[store]
                        self._transfer(cell, "null", stage, store, sinks, scale * nmse, scale * moved[store])
                    self._decomposed(cell, stage, sinks, scale * moved[stage], scale * refit[stage])
        for stage in self.stages:
            for chain in ["real"] if stage == "base" else self.chains:
                self._latents(cell, chain, stage, 0.02 * self.update[stage] ** 0.5 + (moved[stage] if chain == "real" else 0))
                self._dictionary(cell, chain, stage)
        for stage in self.stages[1:]:
            self._lineage(cell, stage)

    def _estimate(self, name: str, value: float, width: float = 0.002) -> dict[str, float]:
        low, high = self.rng.uniform(0.5, 1.0, 2) * width
        return dict(zip((name + end for end in ESTIMATE_ENDS), (value, value - low, value + high), strict=True))

    def _quality(self, cell: dict[str, Any], stage: str, sinks: str, real: float, null: float) -> None:
        for chain in ["real"] if stage == "base" else self.chains:
            nmse = real if chain == "real" else null
            update = self.update[stage]
            refused = "real and null are not distinguished" if chain != "real" or not self.drifting else None
            self.tables["quality"].append({
                **cell, "chain": chain, "stage": stage, "update": update, "sinks": sinks, "rows": 12345, "prompts": 300,
                "store_stage": stage if chain == "real" else "base", "dropped_share": 0.05 if sinks == "dropped" else 0.0,
                **self._estimate("nmse", nmse), "nmse_anchored": nmse * 1.01, "nmse_pooled": nmse * 0.9, "nmse_raw": nmse * 0.5,
                "nmse_rowwise": nmse * 1.1, "l0": 31.4, "dead_share": 0.031 if sinks == "dropped" else None,
                **self._estimate("delta_nmse", nmse - 0.18), "kl": None if self.given else 0.02 * update,
                "delta_per_update": None if refused or not update else (nmse - 0.18) / update, "delta_per_kl": None,
                "rate_refused": refused,
            })  # fmt: skip

    def _transfer(self, cell: dict[str, Any], chain: str, sae: str, store: str, sinks: str, nmse: float, excess: float) -> None:
        ends = self._estimate("nmse", nmse)
        names = {"nmse_low": "low", "nmse_high": "high"} if "low" in schema(Transfer).names else {}
        self.tables["transfer"].append({
            **cell, "chain": chain, "sae_stage": sae, "store_stage": store, "sinks": sinks, "nmse_anchored": nmse * 1.01,
            "l0": 31.2, **{names.get(name, name): value for name, value in ends.items()}, **self._estimate("excess", excess),
        })  # fmt: skip

    def _decomposed(self, cell: dict[str, Any], stage: str, sinks: str, moved: float, null_refit: float) -> None:
        adaptation = -0.65 * moved
        terms = {"delta": moved + null_refit + adaptation, "shift": moved, "refit": null_refit + adaptation}
        if "null" in self.chains:
            terms |= {"null_refit": null_refit, "adaptation": adaptation, "contrast": adaptation}
        row: dict[str, Any] = {**cell, "stage": stage, "update": self.update[stage], "sinks": sinks}
        for name, value in terms.items():
            row |= self._estimate(name, value) | self._estimate(f"anchored_{name}", value * 1.01)
        self.tables["decomposition"].append(row)

    def _latents(self, cell: dict[str, Any], chain: str, stage: str, turning: float) -> None:
        cosines = 1 - np.minimum(1, turning * self.rng.gamma(1.5, 0.6, self.n_latents))
        for latent, cosine in enumerate(cosines):
            self.tables["latents"].append({
                **cell, "chain": chain, "stage": stage, "update": self.update[stage], "latent": latent,
                "decoder_cosine": float(cosine), "encoder_cosine": float(cosine), "firing_rate": 0.01, "frozen_rate": 0.01,
                "frozen_rate_base": 0.01, "frozen_mean": 1.0, "frozen_mean_base": 1.0, "alive": True,
                "frozen_alive": True, "frozen_alive_base": True,
                "reinitialised": latent == 0 and stage != "base", "cosine_excess": None,
            })  # fmt: skip

    def _dictionary(self, cell: dict[str, Any], chain: str, stage: str) -> None:
        later = {
            "rates_tested": 18,
            "rates_changed": 4,
            "rates_confirmed": 3,
            "rates_stable": 9,
            "born": 2,
            "died": 1,
            "mmcs": 0.93,
        }
        beyond = {"rates_changed_both": 2, "born_null": 1, "born_excess": 1, "died_null": 1, "died_excess": 0}
        self.tables["dictionary"].append({
            **cell, "chain": chain, "stage": stage, "update": self.update[stage], "latents": self.n_latents,
            "alive": self.n_latents, "reinitialised": 1, "effective": 12.5, "effective_low": 11.0, "effective_high": 14.0,
            **(later if stage != "base" else {}), **(beyond if stage != "base" and chain == "real" else {}),
        })  # fmt: skip

    def _lineage(self, cell: dict[str, Any], stage: str) -> None:
        counts = {"persist": 15, "rotate": 3, "split": 0, "merge": 1, "born": 2, "die": 1, "unplaced": 0}
        for event, count in counts.items():
            null = count // 2 if "null" in self.chains else None
            excess = None if null is None else count - null
            keys = {**cell, "stage": stage, "update": self.update[stage]}
            self.tables["lineage"].append({**keys, "event": event, "count": count, "null_count": null, "excess": excess})


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., MadeUp]:
    """Builds a study in a folder of its own; keyword arguments change what it holds."""

    def build(**changes: Any) -> MadeUp:
        defaults: dict[str, Any] = {
            "runs": {"strict": {}}, "updates": [8], "layers": [10], "seeds": [0], "chains": ["real", "null"], "texts": ["fixed"],
            "given": False, "drifting": 0.05, "latents": 20, "kinds": ["topk"],
        }  # fmt: skip
        return MadeUp(tmp_path_factory.mktemp("study"), **{**defaults, **changes})

    return build
