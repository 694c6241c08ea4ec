"""The entry scripts, run as Snakemake runs them: with its own containers of files, in an interpreter that knows nothing else."""

import json
import logging
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from planning import ROOT
from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, ResourceList, Wildcards

from workflow.config.n2g import N2gConfig

CELL = {"run": "strict", "text": "fixed", "kind": "relu", "seed": "0", "layer": "0"}
BOOTSTRAP = {"replicates": 50, "confidence": 0.95, "seed": 0}
ROWS = {"skip_positions": 1, "max_norm_multiple": 10.0}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def files(given: dict[str, Any]) -> InputFiles:
    """Inputs by name, of one file or several, in Snakemake's container."""
    every = [path if isinstance(path, list) else [path] for path in given.values()]
    made, start = InputFiles([str(path) for part in every for path in part]), 0
    for (name, path), part in zip(given.items(), every, strict=True):
        made._set_name(name, start, end=start + len(part) if isinstance(path, list) else None)
        start += len(part)
    return made


def entry(script: str, folder: Path, wildcards: dict[str, str], inputs: dict[str, Any], outputs: dict[str, str], cfg: Any) -> None:
    """Run one script."""
    paths = {name: str(folder / path) for name, path in outputs.items()}
    job = SimpleNamespace(
        rule=script, wildcards=Wildcards(fromdict=wildcards), input=files(inputs), output=OutputFiles(fromdict=paths),
        params=Params(fromdict={"cfg": cfg, "code": "c"}), log=Log([str(folder / "job.log")]), threads=1,
        resources=ResourceList(fromdict={"torch_threads": 1}),
    )  # fmt: skip
    runpy.run_path(str(ROOT / "workflow/n2g" / f"{script}.py"), init_globals={"snakemake": job}, run_name="__main__")


def test_latents_are_mined_followed_and_put_into_tables(explained: Callable[..., Any], tmp_path: Path) -> None:
    scene = explained()
    settings = N2gConfig(latents=[0, 2], untrained=1).params()
    settings = {name: value for name, value in settings.items() if name not in ("stages", "steps", "labels")}
    entry(
        "mine_n2g", tmp_path / "base", CELL | {"stage": "base"},
        {"policy": scene.folder / "policy.json", "model": scene.model, "mined": [scene.mined], "held_out": [scene.held_out],
         "sae": scene.sae},
        {"manifest": "manifest.json", "provenance": "provenance.json"},
        {"bootstrap": BOOTSTRAP, "last_stage": "base", "n2g": settings, "rows": ROWS,
         "machine": {"batch_tokens": 256, "device": "cpu", "dtype": "float32"}},
    )  # fmt: skip
    notes = json.loads((tmp_path / "base/provenance.json").read_text())["notes"]
    assert notes["window_tokens"] > 0
    entry(
        "follow_n2g", tmp_path, CELL,
        {"model": scene.model, "graphs": [tmp_path / "base/manifest.json"], "held_out": [scene.held_out], "saes": [scene.sae],
         "base_sae": scene.sae},
        {"manifest": "followed.json", "provenance": "followed.provenance.json"},
        {"bootstrap": BOOTSTRAP, "n2g": settings, "rows": ROWS, "stages": ["base"]},
    )  # fmt: skip
    parts = {"n2g": [tmp_path / "base/latents.parquet"], "n2g_transfer": [tmp_path / "transfer.parquet"]}
    made = {f"{name}{key}": f"{name}.{end}" for name in parts for key, end in (("", "parquet"), ("_csv", "csv"))}
    outputs = made | {"manifest": "manifest.json", "provenance": "provenance.json"}
    entry("make_n2g_tables", tmp_path, {}, parts, outputs, {"tables": list(parts)})
    assert pd.read_csv(tmp_path / "n2g.csv")["state"].tolist()[:2] == ["mined", "silent"]
    assert pd.read_csv(tmp_path / "n2g_transfer.csv")["sae"].tolist() == ["own"]
