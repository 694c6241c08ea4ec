"""A whole study that runs in a minute: a two-layer random model, real PPO, real stores, 1-digit sums."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from planning import ROOT
from tiny_models import build_tiny_model

VOLATILE = ("provenance.json", ".log", ".tsv", ".snakemake_timestamp")
"""Files that tell how a run went; everything else must depend on the configuration alone."""


def write_study(folder: Path, family: str = "qwen2", **sections: dict) -> Path:
    """Prepare a folder: the model, a problem file, and a config.yaml of what differs from the default."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tiny_model(folder / "tiny-model", family)
    pairs = [(a, b) for a in range(10) for b in range(10)]
    lines = [{"expression": f"{a} + {b}", "answer": str(a + b), "digits": 1 if a + b < 10 else 2} for a, b in pairs]
    (folder / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {
        "compute": {"threads": 1},
        "problems": {"source": "problems.jsonl", "size": None, "options": {}, "stratum": "{digits}",
                     "splits": {"warmup": 1, "ppo": 2, "train": 4, "val": 1, "test": 2}},
        "policies": {"model": "tiny-model", "stages": [1, 2], "batch": 4, "max_new_tokens": 4, "reward": "flexible",
                     "lora_rank": 2, "warmup": {"updates": 1, "batch": 4}},
        "traces": {"samples": 2, "max_new_tokens": 4, "batch": 8, "greedy_problems": 0},
        "design": {"layers": [0, 1], "texts": ["fixed"], "chains": ["real", "null"]},
        "activations": {"prompts_per_hop": 10, "chunk_rows": 64, "batch_tokens": 256},
        "saes": {"k": 4, "expansion": 2, "batch": 64, "epochs": 2, "resample_epochs": 1},
        "drift": {"replicates": 200, "min_firings": 2, "min_prompts": 2, "crosscoder": {"k": 4, "batch": 64, "epochs": 3}},
        "interventions": {"problems": 0},
        "ssae": {"stages": [], "preset": None},
        "n2g": {"latents": 0},
        "probes": {"stages": []},
    }  # fmt: skip
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def snakemake_command(folder: Path, *words: str, cores: int = 2) -> list[str]:
    """The command line of a user who works in `folder`."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [*command, "--cores", str(cores), *words]


def environment() -> dict[str, str]:
    """One thread per job and no hub."""
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run_study(folder: Path, *words: str, cores: int = 2) -> str:
    """Run snakemake in a study's folder and return what it printed; fails the test with the output's end otherwise."""
    done = subprocess.run(
        snakemake_command(folder, *words, cores=cores), env=environment(), capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-6000:]
    return output


def result_digests(folder: Path) -> dict[str, str]:
    """sha256 of every result file that must not depend on how the run went."""
    files = sorted(path for path in (folder / "results").rglob("*") if path.is_file() and not path.name.endswith(VOLATILE))
    skipped = {"logs", "benchmarks", "report"}
    kept = [path for path in files if path.relative_to(folder / "results").parts[0] not in skipped]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
