"""Scores of probes: what is written is read, probe by probe, and a probe that is not there is told with those that are."""

from pathlib import Path

import pyarrow as pa
import pytest

from workflow.config.section import ConfigError
from workflow.formats.probe_scores import SCORES, family, probe_tables, read_probe_scores, write_probe_scores


def of_probe(features: str, layer: int | None, p: list[float]) -> pa.Table:
    rows = [
        {"problem": "pa", "split": split, "trace": f"pa/base/{at}", "sample": at, "step": 0, "task": "correct", "layer": layer,
         "features": features, "model": "l2", "p": value}
        for at, (split, value) in enumerate(zip(["val", "test"], p, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCORES)


def test_probes_are_read_one_by_one(tmp_path: Path) -> None:
    probes = [of_probe("surface", None, [0.1, 0.2]), of_probe("dense.last", 3, [0.3, 0.4]), of_probe("dense.last", 7, [0.5, 0.6])]
    assert write_probe_scores(tmp_path / "scores.parquet", probes) == 6
    wanted = {"task": "correct", "model": "l2"}
    last = read_probe_scores(tmp_path / "scores.parquet", features="dense.last", layer=7, **wanted)
    assert last["p"].to_pylist() == [0.5, pytest.approx(0.6)]
    test = read_probe_scores(tmp_path / "scores.parquet", features="surface", split="test", **wanted)
    assert test["p"].to_pylist() == [pytest.approx(0.2)]
    assert [table.num_rows for table in probe_tables(tmp_path / "scores.parquet")] == [2, 2, 2]


def test_an_unknown_probe_is_told_with_those_there(tmp_path: Path) -> None:
    write_probe_scores(tmp_path / "scores.parquet", [of_probe("dense.last", 3, [0.3, 0.4])])
    with pytest.raises(ConfigError, match=r"correct 3 dense\.last l2"):
        read_probe_scores(tmp_path / "scores.parquet", task="correct", features="sae.topk.max", model="l2")


@pytest.mark.parametrize(
    ("features", "expected"),
    [("sae.topk.max", "sae"), ("base_sae.topk.max", "sae"), ("ssae.real.seed_0", "sae"), ("dense.last", "dense"),
     ("words", "surface"), ("surface+words", "surface"), ("sae_error.topk.last", "part"), ("frozen_decoder.topk.max", "random")],
)  # fmt: skip
def test_families_follow_names(features: str, expected: str) -> None:
    assert family(features) == expected
