"""The entry script under Snakemake itself: a chain of two SAEs, the bytes of a direct call, and provenance."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from planted_stores import SETTINGS, sae_arguments

from workflow.config.sae_settings import SaeSettings
from workflow.saes.training import train_sae

ROOT = Path(__file__).parents[3]
SNAKEFILE = """
FOLDER = "{{run}}/{{text}}/{{kind}}/{{chain}}/seed_{{seed}}/{{stage}}/layer_{{layer}}"
BASE = "shared/fixed/topk/real/seed_0/base/layer_3"

def inputs(wildcards):
    warm = {{"warm": f"{{BASE}}/manifest.json", "warm_sae": ancient(f"{{BASE}}/sae.safetensors")}}
    return {{"train_manifests": {train!r}, "val_manifests": {val!r}}} | (warm if wildcards.stage != "base" else {{}})

def cfg(wildcards):
    hop = int(wildcards.stage != "base")
    return {{"compute": {{"device": "cpu"}}, "hop": hop, "part": "hop_0", "saes": {saes!r}, "source_stage": "base",
            "rows": {{"skip_positions": 1, "max_norm_multiple": 10.0}}}}

rule all:
    input: "strict/fixed/topk/null/seed_0/ppo_0008/layer_3/manifest.json"

rule train_sae:
    input: unpack(inputs)
    output:
        sae=FOLDER + "/sae.safetensors", history=FOLDER + "/history.csv", manifest=FOLDER + "/manifest.json",
        provenance=FOLDER + "/provenance.json",
    params: cfg=cfg, code="c"
    script: {script!r}
"""


@pytest.mark.slow
def test_the_rule_trains_a_chain(tmp_path: Path, stores: dict[str, list[Path]]):
    shards = {name: [str(path) for path in stores[name]] for name in ("base", "val")}
    script = str(ROOT / "workflow/saes/train_sae.py")
    saes = SaeSettings(**SETTINGS).params()
    text = SNAKEFILE.format(train=shards["base"], val=shards["val"], saes=saes, script=script)
    (tmp_path / "Snakefile").write_text(text)
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    base = tmp_path / "shared/fixed/topk/real/seed_0/base/layer_3"
    hop = tmp_path / "strict/fixed/topk/null/seed_0/ppo_0008/layer_3"
    train_sae(**sae_arguments(tmp_path, stores))
    for name in ("sae.safetensors", "history.csv", "manifest.json"):
        assert (base / name).read_bytes() == (tmp_path / name).read_bytes()
    facts = json.loads((hop / "manifest.json").read_text())
    assert facts["parent"] == json.loads((base / "manifest.json").read_text())["digest"]
    assert (facts["run"], facts["chain"], facts["stage"], facts["hop"]) == ("strict", "null", "ppo_0008", 1)
    notes = json.loads((hop / "provenance.json").read_text())["notes"]
    assert (notes["device"], notes["resumed_at_update"]) == ("cpu", 0)
