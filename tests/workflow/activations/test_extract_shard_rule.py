"""The entry script under Snakemake itself: outputs, provenance, and a shard set aside being the only one rebuilt."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_traces import COMPUTE, SETTINGS, extraction_arguments, write_random_traces

from workflow.activations.verify import main as verify_main
from workflow.formats.activations import Store
from workflow.formats.files import file_digest, folder_digest

ROOT = Path(__file__).parents[3]
SNAKEFILE = """
SHARDS = ["000", "001"]

rule all:
    input: expand("out/layer_1/heldout/shard_{{shard}}.json", shard=SHARDS)

rule extract_shard:
    input:
        traces="traces.parquet", traces_manifest="manifest.json", policy="policy.json", model=ancient({model!r}),
    output:
        shards=[directory(f"out/layer_{{l}}/{{{{part}}}}/shard_{{{{shard}}}}.zarr") for l in (0, 1)],
        rows=[f"out/layer_{{l}}/{{{{part}}}}/shard_{{{{shard}}}}.rows.parquet" for l in (0, 1)],
        manifests=[f"out/layer_{{l}}/{{{{part}}}}/shard_{{{{shard}}}}.json" for l in (0, 1)],
        provenance="out/{{part}}/shard_{{shard}}.provenance.json",
    params: cfg={cfg!r}, code="c"
    script: {script!r}
"""


def snakemake(folder: Path, *options: str) -> str:
    """Run Snakemake in a folder; what it said."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def content(store: Path) -> dict[str, str]:
    """Digests of every array, row table and manifest."""
    digests = {str(path): folder_digest(path) for path in store.rglob("shard_*.zarr")}
    files = [path for path in store.rglob("layer_*/*/shard_*") if path.suffix in (".json", ".parquet")]
    return digests | {str(path): file_digest(path) for path in files}


@pytest.mark.slow
def test_a_shard_set_aside_is_the_only_one_rebuilt(tmp_path: Path, tiny_qwen2: Path):
    traces = write_random_traces(tmp_path, {"val": 3, "test": 4})
    extraction_arguments(tmp_path, tiny_qwen2)
    cfg = {"activations": SETTINGS | {"shards": 2}, "compute": COMPUTE}
    script = str(ROOT / "workflow/activations/extract_shard.py")
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(model=str(tiny_qwen2), cfg=cfg, script=script))
    snakemake(tmp_path)
    provenance = json.loads((tmp_path / "out/heldout/shard_000.provenance.json").read_text())
    assert provenance["wildcards"] == {"part": "heldout", "shard": "000"}
    assert {"device": "cpu", "dtype": "float32", "stored_dtype": "float32", "resumed_rows": 0}.items() <= provenance[
        "notes"
    ].items()
    manifests = [tmp_path / f"out/layer_1/heldout/shard_{shard}.json" for shard in ("000", "001")]
    assert len(Store(manifests)) == sum(len(trace.token_ids) for trace in traces)

    before, untouched = content(tmp_path / "out"), manifests[0].stat().st_mtime_ns
    chunk = tmp_path / "out/layer_1/heldout/shard_001.zarr/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert content(tmp_path / "out") != before
    assert verify_main([str(tmp_path / "out"), "--set-aside"]) == 1
    snakemake(tmp_path)
    assert content(tmp_path / "out") == before
    assert manifests[0].stat().st_mtime_ns == untouched
    assert verify_main([str(tmp_path / "out")]) == 0
