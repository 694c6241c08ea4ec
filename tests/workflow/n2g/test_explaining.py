"""One SAE of a tiny real policy, from stores to files."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter
from workflow.formats.drift_columns import schema
from workflow.formats.n2g import read_graphs
from workflow.formats.n2g_columns import N2gLatent, N2gScore
from workflow.formats.saes import read_sae
from workflow.language_model import load_model
from workflow.n2g import units
from workflow.n2g.contexts import Cut, Replacing, prune, saliency, with_prefix
from workflow.n2g.encoding import firings_of
from workflow.n2g.inputs import open_rows
from workflow.n2g.suggesting import Likeliest
from workflow.n2g.windows import MEAN, Asked, WindowReader, mean_embedding

KEEP = RowFilter(1, 10.0)
CPU = torch.device("cpu")
DIGIT, NOISE, SILENT = 0, 1, 2


@pytest.fixture
def reader(explained: Callable[..., Any]) -> Any:
    scene = explained()
    model, sae = load_model(scene.model, CPU, torch.float32), read_sae(scene.sae).model
    mean = mean_embedding(model, np.arange(3, 300))
    given = {"model": model, "layer": 0, "sae": sae, "latents": [DIGIT, NOISE], "stored": torch.float32, "batch_tokens": 200}
    with WindowReader(**given, mean=mean) as made:
        yield made


def test_a_window_over_all_of_its_text_is_that_of_the_store(explained: Callable[..., Any], reader: WindowReader) -> None:
    rows = open_rows([explained().mined], KEEP)
    text, values = rows.text, rows.store.read()
    chosen = np.flatnonzero(text.kept)[::7]
    windows = []
    for row in chosen.tolist():
        ids, _ = with_prefix(text, row - int(text.pos[row]) + 1, row, 1)
        windows.append(Asked(ids, (len(ids) - 1,)))
    found = np.concatenate(reader.read(windows))
    np.testing.assert_allclose(found, reader.encoded(values[torch.from_numpy(chosen)]), rtol=1e-4, atol=1e-5)
    assert (found > 0).any()


def test_a_window_that_begins_another_is_read_with_it(reader: WindowReader) -> None:
    whole = (3, 9, 20, 41, 7)
    separate = [np.concatenate(reader.read([Asked(whole[:size], (size - 1,))])) for size in (2, 4, 5)]
    before = reader.tokens
    together = reader.read([Asked(whole[:size], (size - 1,)) for size in (2, 4, 5)])
    assert reader.tokens - before == 5
    np.testing.assert_allclose(np.concatenate(together), np.concatenate(separate), rtol=1e-4, atol=1e-5)


def test_the_policy_suggests_what_it_finds_likeliest_behind_the_tokens_in_front(explained: Callable[..., Any]) -> None:
    model = load_model(explained().model, CPU, torch.float32)
    windows = [(3, 9, 20, 41), (3, 9), (7, 12, 30)]
    with torch.inference_mode():
        wanted = [model(input_ids=torch.tensor([ids])).logits[0, -1].argsort(descending=True).tolist() for ids in windows]
    asked = [((*ids, wanted[at][0]), len(ids)) for at, ids in enumerate(windows)]
    found = Likeliest(model, batch_tokens=6)([*asked, ((5, 6), 0), ((3, 9, 20), 2)], 4)
    assert found[:3] == [order[1:5] for order in wanted]  # the token that stands there is no suggestion
    assert found[3] == []
    assert found[4] == [token for token in wanted[1] if token != 20][:4]


def test_a_mean_embedding_stands_where_it_is_asked_for(reader: WindowReader) -> None:
    plain, meant = (np.concatenate(reader.read([Asked((3, other, 20), (0, 2))])) for other in (9, MEAN))
    np.testing.assert_allclose(plain[0], meant[0], rtol=1e-4, atol=1e-6)
    assert reader._where is not None
    assert not np.allclose(plain[1], meant[1], rtol=1e-6, atol=1e-8) or not plain.any()


def test_contexts_are_cut_and_the_token_itself_matters(explained: Callable[..., Any], reader: WindowReader) -> None:
    scene = explained()
    rows = open_rows([scene.mined], KEEP)
    (firings,) = firings_of(rows.store, rows.text, read_sae(scene.sae).model, [DIGIT], sample_rows=10**6, candidates=4)
    examples = {(int(row), 0): float(value) for row, value in zip(firings.top, firings.top_values, strict=True)}
    cuts = prune(reader, rows.text, examples, skip=1, longest=8, keep=0.5)
    assert {cut.length for cut in cuts.values()} == {1}
    longer = {example: Cut(min(4, int(rows.text.pos[example[0]])), cut.activation) for example, cut in cuts.items()}
    left = saliency(reader, rows.text, longer, skip=1, replacing=Replacing(2, True, 5, 0))
    assert all(shares.shape[1] == 4 for shares in left.values())
    own, others = ([shares[part].mean() for shares in left.values() if shares[part].size] for part in (slice(-1, None), slice(-1)))
    assert np.mean(own) < 0.5 < np.mean(others)


def test_the_planted_tokens_of_a_real_policy_are_recovered(explained: Callable[..., Any]) -> None:
    folder = explained().run("planted", settings={"together": 8})
    table = pd.read_parquet(folder / "latents.parquet").set_index(["sae", "latent"])
    digit = table.loc[("trained", DIGIT)]
    assert digit["category"] == "number"
    assert digit["f1"] >= 0.95
    assert digit["f1_low"] >= 0.9
    assert digit["f1_shuffled"] < 0.5
    silent = table.loc[("trained", SILENT)]
    assert (silent["state"], silent["contexts"], silent["patterns"]) == ("silent", 0, 0)
    assert np.isnan(silent["f1"])
    assert set(table.loc["untrained"]["group"]) == {"untrained"}
    means = pd.read_parquet(folder / "scores.parquet")
    assert set(means["explanation"]) >= {"n2g", "unigram", "ngram", "shuffled"}


def test_tables_have_the_columns_that_the_shelf_tells_and_graphs_are_drawn(explained: Callable[..., Any]) -> None:
    folder = explained().run("columns")
    for name, kind in (("latents", N2gLatent), ("scores", N2gScore)):
        assert list(pd.read_parquet(folder / f"{name}.parquet").columns) == schema(kind).names
    graphs, facts = read_graphs(folder / "manifest.json")
    assert [one["latent"] for one in graphs["latents"] if one["sae"] == "trained"] == [DIGIT, NOISE, SILENT]
    assert (facts["skip_positions"], facts["parts"]) == (1, ["hop_0"])
    assert (folder / "graphs" / f"latent_{DIGIT}.dot").read_text().startswith("digraph")
    assert (folder / "graphs" / f"latent_{DIGIT}.svg").read_text().startswith("<svg")
    (folder / "graphs.json").write_text("{}")
    with pytest.raises(ConfigError, match="must have the digest"):
        read_graphs(folder / "manifest.json")


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def test_a_killed_job_goes_on_behind_its_last_group_to_the_same_bytes(
    explained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = explained()
    whole = digests(scene.run("whole"))
    mine_group, done = units._mine_group, list[int]()

    def killed(*arguments: Any) -> dict[str, Any]:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return mine_group(*arguments)

    monkeypatch.setattr(units, "_mine_group", killed)
    with pytest.raises(KeyboardInterrupt):
        scene.run("again")
    assert [json.loads(path.read_text())["latents"][0]["latent"] for path in (scene.folder / "again/.partial").rglob("*.json")] == [
        DIGIT
    ]
    monkeypatch.setattr(units, "_mine_group", lambda *arguments: done.append(1) or mine_group(*arguments))
    assert digests(scene.run("again")) == whole
    assert len(done) == 3  # of the two groups of the SAE and the one of random weights, none was mined twice


def test_a_listed_latent_beyond_the_sae_is_refused(explained: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"must lie between 0 and 2, the latents of the SAE; got \[3\]"):
        explained().run("beyond", settings={"latents": [0, 3]})
