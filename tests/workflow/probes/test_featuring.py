"""Features of steps: against every trace read by itself, without a look ahead, and the same however they are made."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small_pool import Pool, publish, without_steps, write_pool
from small_scene import write_one_sae
from small_traces import extraction_arguments

from sae_core.config.sae import BatchTopKConfig, TopKConfig
from sae_core.models.build import initial
from workflow import batching
from workflow.activations.extraction import extract_shard
from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, Store
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.saes import read_sae
from workflow.formats.step_features import StepFeatures
from workflow.formats.traces import Trace, read_traces
from workflow.language_model import load_model, load_tokenizer
from workflow.probes import featuring
from workflow.probes.coders import Wanted, active, untrained
from workflow.probes.featuring import Files, Inputs, Machine, Settings, step_features
from workflow.residuals import ResidualReader
from workflow.saes.starting import Place, stream
from workflow.trace_steps import StepCutter

LAYERS, D_SAE, K = [0, 1], 96, 6
KEEP = RowFilter(1, 1.0)
"""Half of the rows are longer than their median, and dropped."""


class Scene(NamedTuple):
    """Everything that features are made of."""

    pool: Pool
    shards: list[Path]
    saes: list[Path]

    def arguments(self, out: Path, stage: str = "base", keep: RowFilter = KEEP, **changes: Any) -> dict[str, Any]:
        settings = {"layers": LAYERS, "batch_tokens": 200, "wanted": Wanted(["last", "mean", "max"], True, True, 0), "keep": keep}
        pool = self.pool
        return {
            "inputs": Inputs(pool.traces, pool.manifest, pool.problems, pool.policy, pool.model, self.shards, self.saes),
            "outputs": [Files(out / f"layer_{layer}/features.h5", out / f"layer_{layer}/manifest.json") for layer in LAYERS],
            "beside": out / "provenance.json", "where": {"run": "shared", "text": "pool", "stage": stage},
            "settings": Settings(**(settings | changes)), "machine": Machine("cpu", "float32", "torch"), "key": "k",
        }  # fmt: skip

    def make(self, out: Path, layer: int = 0, **changes: Any) -> StepFeatures:
        step_features(**self.arguments(out, **changes))
        return StepFeatures(out / f"layer_{layer}/features.h5")


def make_scene(folder: Path, model: Path) -> Scene:
    pool = write_pool(folder, model)
    extract_shard(**extraction_arguments(folder, model))
    shards = [folder / f"out/layer_{layer}/heldout/shard_000.json" for layer in LAYERS]
    saes = []
    for layer, shard in zip(LAYERS, shards, strict=True):
        rows = Store([shard]).read()
        topk = initial(TopKConfig(d_model=64, d_sae=D_SAE, k=K), rows, 3 + layer)
        batchtopk = initial(BatchTopKConfig(d_model=64, d_sae=D_SAE, k=K), rows, 5 + layer)
        batchtopk.threshold.fill_(2.0)
        place: dict[str, Any] = {"layer": layer, "hook_point": f"blocks.{layer}.hook_resid_post"}
        saes.append(write_one_sae(folder / f"topk_{layer}", topk, **place, l0=5.6))
        saes.append(write_one_sae(folder / f"batchtopk_{layer}", batchtopk, **place, kind="batchtopk", l0=9.2))
        saes.append(write_one_sae(folder / f"other_{layer}", topk, **place, seed=1, l0=0.2))
    return Scene(pool, shards, saes)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), tiny_qwen2)


@pytest.fixture(scope="module")
def made(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features")
    step_features(**scene.arguments(out))
    return out


@pytest.mark.parametrize("layer", LAYERS)
def test_features_are_those_of_every_trace_by_itself(scene: Scene, made: Path, layer: int) -> None:
    truth = by_hand(scene, layer)
    with StepFeatures(made / f"layer_{layer}/features.h5") as found:
        assert found.steps["trace"].tolist() == truth.pop("trace")
        for name, rows in truth.items():
            matrix = found.matrix(name)
            dense = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
            np.testing.assert_allclose(dense, np.stack(rows), atol=2e-5, err_msg=name)


def by_hand(scene: Scene, layer: int) -> dict[str, list]:
    """Some sets, one unpadded trace at a time, one step after the other."""
    model, cut = load_model(scene.pool.model, torch.device("cpu"), torch.float32), StepCutter(load_tokenizer(scene.pool.model))
    sae, gated = (read_sae(scene.saes[3 * layer + number]).model for number in range(2))
    limit = Store([scene.shards[layer]], KEEP).median_norm
    truth: dict[str, list] = {}
    for trace in read_traces(scene.pool.traces):
        ids = torch.tensor([trace.token_ids])
        with torch.inference_mode(), ResidualReader(model, [layer]) as reader:
            rows = reader.read(ids)[0][0]
        with torch.inference_mode():
            log_p = torch.log_softmax(model(input_ids=ids).logits[0].float(), -1)
        for step in cut(trace):
            where = torch.arange(step.begin, step.end)
            kept = rows[where][rows[where].norm(dim=1) <= limit]
            own = log_p[where - 1].gather(1, ids[0, where, None])[:, 0]
            entropy = -(log_p[where - 1].exp() * log_p[where - 1]).sum(1)
            logprob = [own.mean(), own[-1], own.min(), entropy.mean(), entropy[-1], entropy.max()]
            with torch.inference_mode():
                one = pooled(kept, sae, gated)
            one |= {"trace": trace.trace, "logprob": torch.stack(logprob).numpy()}
            for name, value in one.items():
                truth.setdefault(name, []).append(value)
    return truth


def pooled(rows: torch.Tensor, sae: Any, gated: Any) -> dict[str, Any]:
    if not len(rows):
        widths = {"dense": 64, "sae": D_SAE, "sae_error": 64, "sae_reconstruction": 64}
        names = ("dense.last", "dense.mean", "sae.topk.last", "sae.topk.mean", "sae.topk.max", "sae_error.topk.mean",
                 "sae_reconstruction.topk.last", "sae.batchtopk.max")  # fmt: skip
        return {name: np.zeros(widths[name.split(".")[0]]) for name in names}
    codes, again = sae.encode_dense(rows), sae(rows)
    return {
        "dense.last": rows[-1].numpy(), "dense.mean": rows.mean(0).numpy(), "sae.topk.last": codes[-1].numpy(),
        "sae.topk.mean": codes.mean(0).numpy(), "sae.topk.max": codes.max(0).values.numpy(),
        "sae_error.topk.mean": (rows - again).mean(0).numpy(), "sae_reconstruction.topk.last": again[-1].numpy(),
        "sae.batchtopk.max": gated.encode_dense(rows).max(0).values.numpy(),
    }  # fmt: skip


def test_every_set_says_what_it_is(scene: Scene, made: Path) -> None:
    with StepFeatures(made / "layer_1/features.h5") as found:
        sets, facts = found.sets, found.facts
    kinds = ("topk", "topk.seed_1", "batchtopk")
    expected = {"dense.last", "dense.mean", "random_projection.max", "logprob", "surface"}
    for kind in kinds:
        expected |= {f"sae.{kind}.{how}" for how in ("last", "mean", "max")} | {f"untrained.{kind}.max"}
        expected |= {f"sae_error.{kind}.last", f"sae_error.{kind}.mean", f"sae_reconstruction.{kind}.last"}
    assert set(sets) == expected
    assert sets["sae.topk.max"].facts["sae"] == read_manifest(scene.saes[3], "sae")["digest"]
    assert (sets["untrained.topk.max"].facts["k"], sets["untrained.topk.seed_1.max"].facts["k"]) == (6, 1)
    assert sets["logprob"].facts["columns"].split(",")[0] == "mean"
    assert (facts["layer"], facts["stage"], facts["traces"]) == (1, "base", read_manifest(scene.pool.manifest, "traces")["digest"])


def test_the_manifest_counts_steps_without_rows(scene: Scene, tmp_path: Path) -> None:
    with scene.make(tmp_path, keep=RowFilter(1, 0.9)) as found:
        empty = ~found.matrix("dense.last").any(1)
        codes = found.matrix("sae.topk.max")
        steps = found.steps
    manifest = read_manifest(tmp_path / "layer_0/manifest.json", "step_features")
    assert manifest["steps"] == len(steps)
    assert 0 < manifest["steps_without_rows"] == empty.sum() < len(empty)
    assert not codes.toarray()[empty].any()
    assert manifest["digest"] == file_digest(tmp_path / "layer_0/features.h5")
    assert not (tmp_path / ".partial").exists()


def test_baselines_are_as_sparse_as_the_sae(scene: Scene, tmp_path: Path) -> None:
    with scene.make(tmp_path, keep=RowFilter(1, 100.0)) as found:
        steps, chance = found.steps, found.matrix("random_projection.max")
        fresh = found.matrix("untrained.topk.max")
    single = np.flatnonzero(steps["tokens"] - (steps["step"] + 1 == steps["steps"]) == 1)
    assert (np.diff(chance.indptr) >= 6).all()
    assert (np.diff(chance.indptr)[single] == 6).all()
    assert (chance.data < 0).any(), "a random map keeps signs"
    assert (fresh.data > 0).all()


def test_untrained_directions_are_those_the_chain_began_with(scene: Scene) -> None:
    place = Place("shared", "fixed", "topk", "real", 0, "base", 1, 0, "hop_0", "base")
    sae, rows = read_sae(scene.saes[3]), Store([scene.shards[1]]).read()
    began = initial(TopKConfig(d_model=64, d_sae=D_SAE, k=K), rows, stream(place, "directions"))
    fresh = untrained(sae, rows)
    assert torch.equal(fresh.W_enc, began.W_enc)
    assert torch.equal(fresh.b_pre, began.b_pre)
    assert active(sae) == 6


def test_no_step_sees_what_stands_behind_it(scene: Scene, tmp_path: Path, tiny_qwen2: Path) -> None:
    changed = write_pool(tmp_path / "pool", tiny_qwen2)
    begun = {trace.trace: [trace.prompt_tokens, *trace.step_ends] for trace in read_traces(changed.traces)}
    publish(changed, [with_another_end(trace) for trace in read_traces(changed.traces)])
    with scene.make(tmp_path / "a") as before, scene._replace(pool=changed).make(tmp_path / "b") as after:
        steps, names = before.steps, before.names
        assert before.sets == after.sets
        last = (steps["step"] + 1 == steps["steps"]).to_numpy()
        pairs = {name: (before.matrix(name), after.matrix(name)) for name in names}
    assert len(begun) == 18
    for name, (a, b) in pairs.items():
        a, b = (one if isinstance(one, np.ndarray) else one.toarray() for one in (a, b))
        np.testing.assert_allclose(a[~last], b[~last], atol=1e-6, err_msg=name)
        assert name == "surface" or not np.allclose(a[last], b[last]), name


def with_another_end(trace: Trace) -> Trace:
    """Other tokens in the last step, as many as before."""
    begin = [trace.prompt_tokens, *trace.step_ends][-2]
    ids = trace.token_ids[:begin] + [3 + (token + 100) % 200 for token in trace.token_ids[begin:-1]] + trace.token_ids[-1:]
    return trace._replace(token_ids=ids)


def test_passes_of_any_size_give_the_same(scene: Scene, made: Path, tmp_path: Path) -> None:
    with StepFeatures(made / "layer_1/features.h5") as a, scene.make(tmp_path, 1, batch_tokens=70) as b:
        for name in a.names:
            one, other = (found.matrix(name) for found in (a, b))
            one, other = (matrix if isinstance(matrix, np.ndarray) else matrix.toarray() for matrix in (one, other))
            np.testing.assert_allclose(one, other, atol=2e-5, err_msg=name)


def test_a_killed_job_goes_on_to_the_same_bytes(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BLOCK_BYTES", 1)
    small = {"batch_tokens": 32}
    whole = step_features(**scene.arguments(tmp_path / "a", **small))
    assert whole["blocks"] > 3
    read, blocks = featuring.read_block, []

    def dying(*arguments: Any) -> Any:
        blocks.append(len(blocks))
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(featuring, "read_block", dying)
    with pytest.raises(KeyboardInterrupt):
        step_features(**scene.arguments(tmp_path / "b", **small))
    step_features(**scene.arguments(tmp_path / "b", **small))
    assert len(blocks) == whole["blocks"] + 1, "what was finished is not made again"
    for layer in LAYERS:
        for name in ("features.h5", "manifest.json"):
            assert (tmp_path / f"a/layer_{layer}" / name).read_bytes() == (tmp_path / f"b/layer_{layer}" / name).read_bytes()


def test_behind_base_the_frozen_sae_reads_too(scene: Scene, tmp_path: Path) -> None:
    with scene.make(tmp_path, stage="ppo_0001", wanted=Wanted(["max"], False, False, 0)) as found:
        assert {name for name in found.names if name.startswith(("sae.", "base_sae."))} == {
            "base_sae.topk.max", "base_sae.topk.seed_1.max", "base_sae.batchtopk.max",
        }  # fmt: skip


def test_an_sae_with_a_frozen_decoder_is_a_baseline(scene: Scene, tmp_path: Path) -> None:
    sae = initial(TopKConfig(d_model=64, d_sae=D_SAE, k=K), Store([scene.shards[0]]).read(), 9)
    frozen = write_one_sae(tmp_path / "sae", sae, chain="frozen", l0=6.0)
    with scene._replace(saes=[*scene.saes, frozen]).make(tmp_path) as found:
        assert found.sets["frozen_decoder.topk.max"].facts["sae"] == read_manifest(frozen, "sae")["digest"]
        assert "frozen_decoder.topk.last" not in found.sets
        assert found.sets["sae.topk.max"].facts["sae"] != read_manifest(frozen, "sae")["digest"]


def test_saes_of_other_rows_are_refused(scene: Scene, tmp_path: Path) -> None:
    other = initial(TopKConfig(d_model=32, d_sae=64, k=2), torch.randn(64, 32), 0)
    wrong = write_one_sae(tmp_path / "sae", other, l0=2.0)
    with pytest.raises(ConfigError, match="must have d_model = 64 to read these rows"):
        scene._replace(saes=[*scene.saes, wrong]).make(tmp_path)


def test_a_pool_without_steps_has_features_of_none(scene: Scene, made: Path, tmp_path: Path) -> None:
    with scene._replace(pool=without_steps(scene.pool, tmp_path / "pool")).make(tmp_path, 1) as found:
        assert found.steps.empty
        with StepFeatures(made / "layer_1/features.h5") as full:
            assert {name: found.matrix(name).shape for name in found.names} == {
                name: (0, full.matrix(name).shape[1]) for name in full.names
            }
