"""One dictionary for all stages, from stores to the table: planted births, resuming, no problem on both sides, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from workflow.config.drift import DriftConfig
from workflow.config.joint import CrosscoderSettings
from workflow.config.section import ConfigError
from workflow.drift import crosscoding
from workflow.drift.agreeing import kappa, match_crosscoders
from workflow.drift.agreement_tables import agreement_table
from workflow.drift.crosscoder_counts import measure_crosscoder
from workflow.drift.crosscoder_tables import crosscoder_table
from workflow.drift.crosscoding import Scope, train_crosscoder
from workflow.drift.joint_store import open_joint_rows
from workflow.formats.activations import RowFilter
from workflow.formats.agreement_columns import Agreement, Match
from workflow.formats.crosscoders import read_crosscoder
from workflow.formats.drift_columns import schema
from workflow.formats.joint_columns import CrosscoderLatent, CrosscoderStage
from workflow.formats.saes import read_sae

KEEP = RowFilter(1, 10.0)
SETTINGS = CrosscoderSettings(k=3, batch=64, epochs=30, lr=0.02, expansion=2)
CLASSES = ("shared", "rotated", "new", "gone")


def train(world: Any, name: str = "crosscoder", save_seconds: float = 1e9, **changes: Any) -> Path:
    """Train on a planted world; the folder of the result."""
    out = world.folder / name
    settings = SETTINGS.model_copy(update=changes)
    train_crosscoder(
        stores=world.stores, crosscoder=out / "crosscoder.safetensors", history=out / "history.csv", manifest=out / "manifest.json",
        scope=Scope("strict", world.text, 0, 5, list(world.STAGES), KEEP, settings), device="cpu", key="key", backend="torch",
        save_seconds=save_seconds,
    )  # fmt: skip
    return out


def measure(world: Any, out: Path, **changes: Any) -> pd.DataFrame:
    """The table of one crosscoder."""
    drift = DriftConfig(replicates=100, min_firings=5, min_prompts=3, crosscoder=SETTINGS)
    measure_crosscoder(
        crosscoder=out / "manifest.json", stores=world.stores, stages=out / "stages.parquet", latents=out / "latents.parquet",
        manifest=out / "measured.json", keep=KEEP, drift=drift.model_copy(update=changes), device="cpu",
    )  # fmt: skip
    crosscoder_table(
        stages=[out / "stages.parquet"], policies=world.policies, parquet=out / "table.parquet", csv=out / "table.csv",
        manifest=out / "table.json",
    )  # fmt: skip
    return pd.read_parquet(out / "table.parquet").set_index("stage")


def with_a_birth(world: Callable[..., Any]) -> Any:
    """A world whose last stage has two directions that base and the first stage lack, and lacks two that they have."""
    planted = world(prompts=120)
    signal = (planted.x["base"].double() - 0.5) @ torch.tensor(planted.directions).T
    for stage, absent in (("base", (14, 15)), ("ppo_0008", (14, 15)), ("ppo_0016", (12, 13))):
        there = torch.tensor(planted.directions[list(absent)])
        planted.x[stage] = planted.x[stage] - (signal[:, list(absent)] @ there).float()
    turned = planted.dictionary
    planted.dictionary = lambda hop: turned(hop) if hop == 2 else np.concatenate([turned(hop)[:14], -turned(hop)[:2]])
    planted.k = dict.fromkeys(planted.chains, 1)  # fewer than there are directions in any row: what is absent never fires
    return planted.write()


@pytest.fixture(scope="module")
def born(world_class: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    planted = with_a_birth(lambda **settings: world_class(tmp_path_factory.mktemp("born"), **settings))
    return planted, train(planted)


def test_planted_births_and_deaths_stand_in_the_table(born: tuple[Any, Path]) -> None:
    table = measure(*born)
    before, after = table.loc["ppo_0008"], table.loc["ppo_0016"]
    assert after.new_confirmed >= 2
    assert after.gone_confirmed >= 2
    assert after.new_confirmed_high >= after.new_confirmed >= after.new_confirmed_low >= 1
    assert before.new + before.gone == 0
    for row in (before, after):
        assert sum(row[name] for name in CLASSES) == row.alive
        assert row.nmse < 0.35
    assert after.changed_share == (after.rotated + after.new_confirmed + after.gone_confirmed) / after.alive
    assert after.kl == 0.16
    assert np.isnan(before.kl)


def test_the_latents_tell_what_the_counts_are_made_of(born: tuple[Any, Path]) -> None:
    table, latents = measure(*born), pd.read_parquet(born[1] / "latents.parquet")
    assert pq.read_schema(born[1] / "latents.parquet").equals(schema(CrosscoderLatent))
    assert pq.read_schema(born[1] / "table.parquet").equals(schema(CrosscoderStage))
    for stage, rows in latents.groupby("stage"):
        counts = rows[rows.alive].of.value_counts()
        assert all(counts.get(name, 0) == table.loc[stage, name] for name in CLASSES)
    new = latents[(latents.stage == "ppo_0016") & (latents.of == "new") & latents.alive]
    directions = torch.nn.functional.normalize(
        read_crosscoder(born[1] / "manifest.json").model.decoders()[new.latent.tolist(), 2], dim=1
    )
    cosines = directions.double() @ torch.tensor(born[0].directions).T
    assert set(cosines.argmax(1).tolist()) == {14, 15}


def test_no_problem_is_trained_on_and_measured(born: tuple[Any, Path]) -> None:
    planted, out = born
    shards = {stage: [path] for (stage, _), path in zip(planted.STAGES, planted.stores, strict=True)}
    rows = open_joint_rows(shards, KEEP, 0.5)
    trained, measured = (set(store.rows["problem"]) for store in (rows.train, rows.held_out))
    assert not trained & measured
    assert len(measured) == 60
    assert "q000000000000" in trained, "the split val is trained on"
    assert sorted(measured) == rows.problems == read_crosscoder(out / "manifest.json").facts["problems"]
    whole = torch.cat([planted.x[stage] for stage in shards], 1)
    frame = planted.rows.to_pandas()
    chosen = (frame["problem"].isin(measured) & (frame["pos"] > 0)).to_numpy().copy()
    assert torch.equal(rows.held_out.read(), whole[torch.from_numpy(chosen)])
    assert [rows.problems[place] for place in rows.prompt.tolist()] == list(frame["problem"][chosen])


def test_equal_stages_share_every_latent(world: Callable[..., Any]) -> None:
    planted = world(prompts=60)
    planted.x = dict.fromkeys(planted.x, planted.x["base"])
    planted.write()
    table = measure(planted, train(planted, epochs=20))
    assert (table.shared == table.alive).all()
    assert (table.alive > 5).all()
    assert (table.changed_share == 0).all()


def test_a_killed_training_goes_on_to_the_same_bytes(world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    planted = world(angle=0.2).write()
    whole = train(planted, "whole", epochs=4)

    class Killed(crosscoding.Progress):
        def advance(self, units: int = 1, note: str = "") -> None:
            super().advance(units, note)
            if self._done == 9:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(crosscoding, "Progress", Killed)
        with pytest.raises(KeyboardInterrupt):
            train(planted, "killed", save_seconds=0, epochs=4)
    assert list((planted.folder / "killed/.partial").glob("*/trainer.pt"))
    started: list[int] = []
    monkeypatch.setattr(crosscoding, "Progress", lambda *arguments, done: started.append(done) or Killed(*arguments, done=99))
    killed = train(planted, "killed", epochs=4)
    assert started == [8]
    for name in ("crosscoder.safetensors", "history.csv", "manifest.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not (killed / ".partial").exists()


def test_epochs_that_are_not_measured_leave_their_quality_empty(world: Callable[..., Any]) -> None:
    planted = world(prompts=40).write()
    often, seldom = (train(planted, str(every), epochs=5, measured_every=every) for every in (1, 2))
    assert (often / "crosscoder.safetensors").read_bytes() == (seldom / "crosscoder.safetensors").read_bytes()
    all_epochs, some = (pd.read_csv(out / "history.csv") for out in (often, seldom))
    assert all_epochs.notna().all(axis=None)
    assert list(some["epoch"][some["nmse"].notna()]) == list(some["epoch"][some["l0"].notna()]) == [2, 4, 5]
    assert some.equals(all_epochs.assign(**{name: all_epochs[name].where(some["nmse"].notna()) for name in ("nmse", "l0")}))


def test_unpaired_rows_are_refused(world: Callable[..., Any]) -> None:
    planted = world()
    planted.read_another_token("ppo_0016")
    with pytest.raises(ConfigError, match="unpaired prompts between stages"):
        train(planted.write())


def test_stages_of_two_widths_are_refused(world: Callable[..., Any]) -> None:
    planted = world()
    planted.x["ppo_0016"] = planted.x["ppo_0016"][:, :8]
    with pytest.raises(ConfigError, match="one hook point and width"):
        train(planted.write())


@pytest.mark.parametrize("prompts", [1, 2])
def test_too_few_problems_to_divide_are_refused(world: Callable[..., Any], prompts: int) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        train(world(prompts=prompts).write())


@pytest.mark.parametrize(("changes", "said"), [({"batch": 9999}, "drift.crosscoder.batch"), ({"k": 33}, "at most d_sae = 32")])
def test_settings_that_do_not_fit_are_refused(world: Callable[..., Any], changes: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(world().write(), **changes)


def test_another_division_of_the_problems_is_refused(born: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from workflow.drift import crosscoder_counts

    planted, out = born
    monkeypatch.setattr(crosscoder_counts, "open_joint_rows", lambda shards, keep, share: open_joint_rows(shards, keep, 0.25))
    with pytest.raises(ConfigError, match="that it was kept from"):
        measure(planted, out)


def matched(born: tuple[Any, Path], **changes: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Matches and agreement of the crosscoder and the chain of the world."""
    planted, out = born
    measure(planted, out)
    drift = planted.measure()
    given: dict[str, Any] = {
        "crosscoders": [out / "manifest.json"], "told": [out / "latents.parquet"], "measurements": [drift / "manifest.json"],
        "chains": [drift / "latents.parquet"], "saes": planted.saes, "matches": [out / "matches.parquet"],
        "parquet": out / "agreement.parquet", "csv": out / "agreement.csv", "manifest": out / "agreement.json", "min_cosine": 0.7,
    }  # fmt: skip
    agreement_table(**given | changes)
    return pd.read_parquet(out / "matches.parquet"), pd.read_parquet(out / "agreement.parquet").set_index("stage")


def test_births_and_deaths_of_the_crosscoder_are_found_among_those_of_the_chain(born: tuple[Any, Path]) -> None:
    matches, agreement = matched(born)
    assert pq.read_schema(born[1] / "matches.parquet").equals(schema(Match))
    assert pq.read_schema(born[1] / "agreement.parquet").equals(schema(Agreement))
    last = agreement.loc["ppo_0016"]
    assert (last.chain_born, last.chain_born_found) == (1, 1), "of the two that are new, 15 was re-initialised in the chain"
    assert (last.chain_died, last.chain_died_found) == (2, 2)
    assert last.born_born >= 1
    assert last.born_shared >= 1
    assert last.died_died >= 2
    assert last.born_died + last.died_born + last.died_shared == 0
    assert 0.5 < last.kappa < 1
    before = agreement.loc["ppo_0008"]
    assert before.chain_born + before.chain_died == 0
    assert before.agreement == 1
    assert np.isnan(before.kappa), "where nothing is born or dies chance agrees, too"
    for row in (before, last):
        assert row.alive == row.judged + row.unmatched + row.replaced
        assert min(row.cosine_base, row.cosine) > 0.9
    new = matches[(matches.stage == "ppo_0016") & (matches.verdict == "born") & matches.alive]
    assert set(new.sae_latent) == {14, 15}
    assert (new.chain_verdict == np.where(new.sae_latent == 14, "born", "shared")).all()


def test_a_partner_is_the_latent_of_the_largest_cosine(born: tuple[Any, Path]) -> None:
    matches, _ = matched(born)
    decoders = read_crosscoder(born[1] / "manifest.json").model.decoders()
    for place, (stage, _) in enumerate(born[0].STAGES):
        mine = matches[matches.stage == stage].sort_values("latent")
        theirs = read_sae(next(path for path in born[0].saes if path.parts[-3:-1] == ("real", stage))).model.W_dec.double()
        cosines = torch.nn.functional.normalize(decoders[:, place].double(), dim=1) @ torch.nn.functional.normalize(theirs, dim=1).T
        found = cosines[torch.arange(len(mine)), torch.tensor(mine.sae_latent.to_numpy(dtype=int))]
        torch.testing.assert_close(torch.tensor(mine.cosine.to_numpy()), found)
        dead = {14, 15} if stage != "ppo_0016" else {12, 13}
        assert not dead & set(mine.sae_latent), "what never fires is nobody's partner"
        cosines[:, list(dead)] = -2
        assert torch.equal(found, cosines.max(1).values)


@pytest.mark.parametrize(
    ("counts", "truth"),
    [
        ([[20, 5], [10, 15]], 0.4),  # Cohen's own formula by hand: 0.7 observed, 0.5 expected
        ([[5, 0], [0, 5]], 1.0),
        ([[0, 5], [5, 0]], -1.0),
        ([[10, 10], [10, 10]], 0.0),
        ([[0, 0], [0, 9]], None),
        ([[0, 0], [0, 0]], None),
    ],
)
def test_kappa_is_agreement_beyond_the_margins(counts: list[list[int]], truth: float | None) -> None:
    assert kappa(np.array(counts)) == (truth if truth is None else pytest.approx(truth))


def test_every_crosscoder_is_matched_with_the_chains_of_its_own_layer(born: tuple[Any, Path]) -> None:
    planted, out = born
    alone = matched(born)
    other = write_facts(out / "layer_6" / "manifest.json", out / "manifest.json", layer=6)
    found = matched(born, crosscoders=[other, out / "manifest.json"], told=[out / "missing", out / "latents.parquet"])
    for table, expected in zip(found, alone, strict=True):
        pd.testing.assert_frame_equal(table, expected)
    drift = planted.measure()
    again = write_facts(out / "seed_1" / "manifest.json", drift / "manifest.json", seed=1)
    with pytest.raises(ConfigError, match="the SAEs that were measured; that of stage base"):
        matched(
            born, measurements=[drift / "manifest.json", again], chains=[drift / "latents.parquet"] * 2,
            matches=[out / "matches.parquet", out / "matches_1.parquet"],
        )  # fmt: skip


def write_facts(path: Path, like: Path, **changes: Any) -> Path:
    """A manifest with other facts."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(json.loads(like.read_text()) | changes))
    return path


def test_saes_of_another_layer_or_chain_are_refused(born: tuple[Any, Path]) -> None:
    planted, out = born
    measure(planted, out)
    drift = planted.measure()
    given: dict[str, Any] = {
        "crosscoders": [out / "manifest.json"], "told": [out / "latents.parquet"], "chain": drift / "latents.parquet",
        "saes": [path for path in planted.saes if "real" in path.parts], "cell": planted.scope().cell, "min_cosine": 0.7,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="of layer 6"):
        match_crosscoders(**given | {"cell": given["cell"]._replace(layer=6)})
    with pytest.raises(ConfigError, match="of chain real"):
        match_crosscoders(**given | {"saes": [path for path in planted.saes if "null" in path.parts]})
    with pytest.raises(ConfigError, match="its own run, layer, width and stages"):
        match_crosscoders(**given | {"saes": given["saes"][:2]})
    with pytest.raises(ConfigError, match="the SAEs that were measured; that of stage ppo_0008"):
        matched(born, saes=planted.saes[:1])
