"""The entry scripts under Snakemake itself: a chain of two SAEs, two kinds together, the bytes of a direct call, and provenance."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from planted_stores import OF_KIND, SETTINGS, sae_arguments

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
    return {{"compute": {{"device": "cpu", "backend": "torch"}}, "hop": hop, "part": "hop_0", "saes": {saes!r},
            "source_stage": "base", "rows": {{"skip_positions": 1, "max_norm_multiple": 10.0}}}}

KINDS = ["relu", "topk"]
TOGETHER = "together/" + FOLDER

ruleorder: train_kinds > train_sae

rule all:
    input:
        "strict/fixed/topk/null/seed_0/ppo_0008/layer_3/manifest.json",
        expand("together/shared/fixed/{{kind}}/real/seed_0/base/layer_3/manifest.json", kind=KINDS),

rule train_kinds:
    input: unpack(inputs)
    output:
        sae=expand(TOGETHER + "/sae.safetensors", kind=KINDS, allow_missing=True),
        history=expand(TOGETHER + "/history.csv", kind=KINDS, allow_missing=True),
        manifest=expand(TOGETHER + "/manifest.json", kind=KINDS, allow_missing=True),
        provenance=expand(TOGETHER + "/provenance.json", kind=KINDS, allow_missing=True),
    params: cfg=lambda wildcards: cfg(wildcards) | {{"saes": {every!r}}}, code="c"
    script: {kinds_script!r}

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
    every = {"relu": SaeSettings(**SETTINGS | OF_KIND["relu"]).params(), "topk": saes}
    text = SNAKEFILE.format(
        train=shards["base"], val=shards["val"], saes=saes, script=script, every=every,
        kinds_script=script.replace("train_sae", "train_kinds"),
    )  # fmt: skip
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
    assert (notes["device"], notes["backend"], notes["resumed_at_update"]) == ("cpu", "torch", 0)
    together = {kind: tmp_path / f"together/shared/fixed/{kind}/real/seed_0/base/layer_3" for kind in ("relu", "topk")}
    assert (together["topk"] / "sae.safetensors").read_bytes() == (base / "sae.safetensors").read_bytes()
    train_sae(**sae_arguments(tmp_path, stores, kind="relu"))
    assert (together["relu"] / "manifest.json").read_bytes() == (tmp_path / "manifest.json").read_bytes()
    told = [json.loads((folder / "provenance.json").read_text()) for folder in together.values()]
    assert told[0] == told[1]
    assert told[0]["notes"]["best_epoch"].keys() == together.keys()
