"""SAEs in the place of rows: against interventions made by hand, with known answers, and with inputs that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_scene import D_SAE, KEEP, LAYER, K, Scene, make_scene, reading, write_one_sae
from small_traces import extraction_arguments, write_random_traces
from tiny_models import build_tiny_model
from torch import Tensor

from sae_core.config.sae import TopKConfig
from sae_core.models.build import initial
from workflow.activations.extraction import extract_shard
from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, Store
from workflow.formats.saes import read_sae
from workflow.formats.traces import read_traces
from workflow.interventions import measuring
from workflow.interventions.inputs import open_rows
from workflow.interventions.measuring import intervene
from workflow.interventions.texts import read_texts
from workflow.language_model import blocks, load_model
from workflow.tail import Tail

COLUMNS = ["tokens", "ce", "kl"]


def by_hand(scene: Scene, put: str) -> pd.DataFrame:
    """The sums of one intervention, one unpadded text at a time, with a hook."""
    model = load_model(scene.model, torch.device("cpu"), torch.float32)
    store = Store(scene.shards, keep=KEEP, splits=["test"])
    stored, rows = store.read(), store.rows
    sae = read_sae(scene.saes[put]).model if put in scene.saes else None
    found = []
    for trace in read_traces(scene.folder / "traces.parquet", ["test"]):
        mine = np.array(rows["trace"] == trace.trace)
        x = stored[torch.from_numpy(mine)]
        instead = {"mean": stored.mean(0).expand_as(x), "zero": torch.zeros_like(x), "nothing": x}.get(put)
        instead = sae(x) if sae is not None else instead
        assert instead is not None
        ids = torch.tensor([trace.token_ids])
        with torch.inference_mode():
            before = torch.log_softmax(model(input_ids=ids).logits[0].float(), -1)
            handle = blocks(model)[LAYER].register_forward_hook(hook(rows["pos"].to_numpy()[mine], instead))
            after = torch.log_softmax(model(input_ids=ids).logits[0].float(), -1)
            handle.remove()
        where = torch.arange(trace.prompt_tokens - 1, len(trace.token_ids) - 1)
        ce = -after[where].gather(1, ids[0, where + 1, None])[:, 0]
        kl = torch.nn.functional.kl_div(after[where], before[where], log_target=True, reduction="none").sum(1)
        found.append((trace.problem, len(where), float(ce.sum()), float(kl.sum())))
    return pd.DataFrame(found, columns=["problem", *COLUMNS]).groupby("problem").sum()


def hook(positions: Any, instead: Tensor) -> Any:
    def put(_: object, __: object, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[0, torch.as_tensor(positions, dtype=torch.long)] = instead
        return changed

    return put


def sums(path: Path, put: str) -> pd.DataFrame:
    """The sums of one intervention by problem."""
    table = pd.read_parquet(path)
    return table[table["put"] == put].set_index("problem")[COLUMNS].sort_index()


@pytest.mark.parametrize("put", ["nothing", "real", "frozen", "null", "mean", "zero"])
def test_every_intervention_is_what_a_hook_made_by_hand_does(scene: Scene, put: str) -> None:
    found, truth = sums(scene.splice(f"by_hand_{put}"), put), by_hand(scene, put)
    pd.testing.assert_frame_equal(found, truth, check_dtype=False, rtol=1e-4, atol=2e-4)
    assert (found["kl"] == 0).all() if put == "nothing" else (found["kl"] > 0.01).all()


def test_neither_the_size_of_batches_nor_padding_changes_a_number(scene: Scene) -> None:
    alone, together = (pd.read_parquet(scene.splice(f"batch_{n}", reading=reading(batch_tokens=n))) for n in (1, 4000))
    pd.testing.assert_frame_equal(alone, together, rtol=1e-4, atol=2e-4)


def test_a_large_vocabulary_makes_batches_smaller_and_changes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = pd.read_parquet(scene.splice("usual"))
    monkeypatch.setattr("workflow.interventions.texts.PREDICTED_NUMBERS", 512 * 70)
    pd.testing.assert_frame_equal(pd.read_parquet(scene.splice("small")), usual, rtol=1e-4, atol=2e-4)


def test_sums_of_a_problem_are_those_of_its_own_texts(scene: Scene) -> None:
    """Fewer problems leave those that remain as they were."""
    few, all_of_them = (pd.read_parquet(scene.splice(f"first_{n}", reading=reading(problems=n))) for n in (3, 8))
    shared = all_of_them[all_of_them["problem"].isin(few["problem"])].reset_index(drop=True)
    assert few["problem"].nunique() == 3
    pd.testing.assert_frame_equal(few, shared, rtol=1e-4, atol=2e-4)


def test_the_same_bytes_again_after_a_kill(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scene.splice("whole")
    with monkeypatch.context() as patched:
        patched.setattr(measuring, "sums_by_prompt", killed_after(measuring.sums_by_prompt, 7))
        with pytest.raises(KeyboardInterrupt):
            scene.splice("killed")
    assert not (scene.folder / "killed").exists()
    again = scene.splice("killed")
    assert again.read_bytes() == first.read_bytes()
    assert again.with_name("manifest.json").read_bytes() == first.with_name("manifest.json").read_bytes()


def killed_after(function: Any, calls: int) -> Any:
    left = iter(range(calls))

    def counted(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return counted


def test_an_sae_that_returns_its_rows_changes_nothing(scene: Scene) -> None:
    found = measured(scene, {"same": lambda rows: rows.clone()})
    assert torch.equal(found["same"].ce, found["nothing"].ce)
    assert (found["same"].kl == 0).all()


def test_sinks_and_padding_are_never_replaced(scene: Scene) -> None:
    """A replacement is handed exactly the kept rows of the texts; with all of them dropped it cannot do anything."""
    seen = []
    store = Store(scene.shards, keep=KEEP, splits=["test"])
    measured(scene, {"seen": lambda rows: seen.append(rows.clone()) or rows})
    handed, kept = torch.cat(seen), store.read()
    assert len(handed) == len(kept) < len(Store(scene.shards, keep=None, splits=["test"]))
    assert torch.allclose(handed.double().sum(0), kept.double().sum(0), atol=1e-3)
    lengths = [len(trace.token_ids) for trace in read_traces(scene.folder / "traces.parquet", ["test"])]
    changed = sums(scene.splice("late", keep=RowFilter(max(lengths) - 6, 10.0)), "zero")["kl"]
    assert (changed == 0).any(), "problems whose texts end before the first position that counts"
    assert (changed > 0).any()


def beside(scene: Scene, folder: Path) -> list[Path]:
    """Shards of two stages on the texts of the scene: those of another policy as base, those of the scene as a later one."""
    write_random_traces(folder, {"val": 2, "test": 8})
    extract_shard(**extraction_arguments(folder, build_tiny_model(folder / "model", seed=1)))
    later = extraction_arguments(folder, scene.model) | {"key": "later"}
    later["where"] = later["where"] | {"run": "strict", "stage": "ppo_0001"}
    later["manifests"] = [folder / f"later/layer_{layer}/heldout/shard_000.json" for layer in (0, 1)]
    extract_shard(**later | {"beside": folder / "later/heldout/shard_000.provenance.json"})
    return [folder / f"{name}/layer_{LAYER}/heldout/shard_000.json" for name in ("out", "later")]


def places(rows: pd.DataFrame) -> set[tuple[str, int]]:
    return set(zip(rows["trace"], rows["pos"], strict=True))


def test_a_row_that_one_stage_drops_is_replaced_in_none(scene: Scene, tmp_path: Path) -> None:
    shards, keep = beside(scene, tmp_path), RowFilter(1, 1.05)
    base, own = (places(Store([shard], keep=keep, splits=["test"]).rows) for shard in shards)
    assert base & own != own
    store = open_rows(shards[1:], keep, LAYER, 64, shards)
    assert places(store.rows) == base & own
    whole = Store(shards[1:], keep=None, splits=["test"])
    there = [place in base & own for place in zip(whole.rows["trace"], whole.rows["pos"], strict=True)]
    assert torch.equal(store.read(), whole.read()[torch.tensor(there)])
    alone = pd.read_parquet(scene.splice("alone", shards=shards[1:], keep=keep))
    paired = pd.read_parquet(scene.splice("paired", shards=shards[1:], keep=keep, paired=shards))
    kl = [table[table["put"] == "zero"]["kl"].sum() for table in (alone, paired)]
    assert 0 < kl[1] < kl[0]
    same = pd.read_parquet(scene.splice("same", shards=shards[1:], keep=keep, paired=shards[1:]))
    pd.testing.assert_frame_equal(same, alone)


def test_the_shards_of_all_stages_must_hold_those_that_are_read(scene: Scene, tmp_path: Path) -> None:
    shards = beside(scene, tmp_path)
    with pytest.raises(ConfigError, match="must hold those that are read, of stage ppo_0001"):
        scene.splice("lacking", shards=shards[1:], paired=shards[:1])


def measured(scene: Scene, interventions: dict[str, Any], **more: Any) -> Any:
    store = Store(scene.shards, keep=KEEP, splits=["test"])
    texts = read_texts(scene.folder / "traces.parquet", 8, 64, store)
    tail = Tail(load_model(scene.model, torch.device("cpu"), torch.float32), LAYER)
    return intervene(tail=tail, texts=texts, interventions=interventions, batch_tokens=100, vocab=512, unchanged="nothing", **more)


def test_reconstruction_and_error_that_do_not_add_up_are_refused(scene: Scene) -> None:
    with pytest.raises(ConfigError, match=r"within 0\.001 nats; one differs by"):
        measured(scene, {}, identity=lambda rows: rows * 1.05)
    measured(scene, {}, identity=lambda rows: (rows * 3.0) / 3.0)


def test_one_problem_is_refused(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="at least 2 problems"):
        scene.splice("one", reading=reading(problems=1))


def test_an_sae_of_another_width_is_refused(scene: Scene, tmp_path: Path) -> None:
    rows = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    narrow = write_one_sae(tmp_path / "narrow", initial(TopKConfig(d_model=32, d_sae=D_SAE, k=K), rows, 0))
    with pytest.raises(ConfigError, match="d_model = 64"):
        scene.splice("narrow", saes={"real": narrow})


def test_a_layer_that_the_model_lacks_is_refused(scene: Scene) -> None:
    cell = scene.arguments()["cell"]._replace(layer=7)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        scene.splice("beyond", cell=cell)


def test_a_store_of_other_texts_is_refused(tmp_path: Path, tiny_qwen2: Path) -> None:
    scene = make_scene(tmp_path, tiny_qwen2)
    write_random_traces(tmp_path, {"val": 2, "test": 8}, seed=1)
    with pytest.raises(ConfigError, match="rows of the texts that are read"):
        scene.splice()
