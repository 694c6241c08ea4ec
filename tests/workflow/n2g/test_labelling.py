"""Names of latents by a chat endpoint on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from chat_server import Answer, Asked, chat_server, completion

from workflow.config.endpoint import EndpointConfig
from workflow.formats.drift_columns import schema
from workflow.formats.n2g_columns import N2gLatent
from workflow.n2g.labelling import label_latents
from workflow.n2g.tables import n2g_tables


def test_latents_with_patterns_are_named_and_unreadable_answers_leave_them_without(
    explained: Callable[..., Any], tmp_path: Path
) -> None:
    folder = explained().run("named")
    replies = ['{"label": "a digit"}', '{"name": "no label"}']

    def answer(asked: Asked, times: int) -> Answer:
        return completion(replies[0] if "<NUM>" in asked.question or "'1'" in asked.question else replies[1])

    with chat_server(answer) as server:
        settings = EndpointConfig(url=server.url, model="any", retries=0)
        counts = label_latents(graphs=[folder / "manifest.json"], labels=[tmp_path / "labels.parquet"], settings=settings)
    labels = pd.read_parquet(tmp_path / "labels.parquet").set_index(["sae", "latent"])
    assert labels.loc[("trained", 0), "label"] == "a digit"
    assert counts["questions"] == len(labels) == len(server.asked)
    assert labels["fault"].notna().equals(labels["label"].isna())
    assert ("trained", 2) not in labels.index  # the silent one is not asked about
    parts = {"n2g": [folder / "latents.parquet"]}
    tables = {"n2g": (tmp_path / "n2g.parquet", tmp_path / "n2g.csv")}
    n2g_tables(parts=parts, tables=tables, manifest=tmp_path / "manifest.json", labels=[tmp_path / "labels.parquet"])
    table = pd.read_parquet(tmp_path / "n2g.parquet")
    assert list(table.columns) == schema(N2gLatent).names
    assert table.set_index(["sae", "latent"]).loc[("trained", 0), "label"] == "a digit"
