"""Phase drift: how the representation changed between stages, with intervals by prompt.

in:  SAEs of all chains and the held-out shards of all stages
out: results/drift/{quality,transfer,decomposition,contrasts,claims,latents,dictionary,lineage}.{parquet,csv}
"""

TABLES = ["quality", "transfer", "decomposition", "contrasts", "claims", "latents", "dictionary", "lineage"]
CELL = "results/drift/{run}/{text}/{kind}/seed_{seed}/layer_{layer}"
OF_TABLES = ("replicates", "max_l0_ratio")
JOINT = ("representation", "crosscoder")
SEQUENTIAL_DRIFT = {name: value for name, value in STUDY.drift.params().items() if name not in JOINT}


def drift_inputs(wildcards):
    """Held-out shards of every stage on one text set, and every SAE of the run at this layer."""
    w = wildcards
    shards = [shard_files(w.run, w.text, stage, "heldout", [w.layer]) for stage in stage_names(w.run)]
    folders = every_sae(w.run, w.kind, w.seed, w.layer)
    return {
        "stores": [manifest for manifests, _ in shards for manifest in manifests],
        "stores_bulk": [path for _, bulk in shards for path in bulk],
        "saes": [f"{folder}/manifest.json" for folder in folders],
        "saes_bulk": ancient([f"{folder}/sae.safetensors" for folder in folders]),
    }


def drift_settings(wildcards):
    """Settings of the measurement; the bootstrap and what may be compared belong to the tables."""
    measured = {name: value for name, value in SEQUENTIAL_DRIFT.items() if name not in OF_TABLES}
    return {
        "chains": list(STUDY.design.chains),
        "compute": {"backend": STUDY.compute.backend, "device": STUDY.compute.device},
        "drift": measured,
        "rows": ROW_FILTER,
        "stages": [[stage.name, stage.update] for stage in STUDY.stages(wildcards.run)],
    }


def drift_memory(wildcards, attempt):
    """Megabytes of one measurement: all SAEs of the run at one layer, a batch of codes, directions and cosines in float64."""
    settings = STUDY.saes.settings(wildcards.kind, int(wildcards.layer), 0)
    saes = len(every_sae(wildcards.run, wildcards.kind, wildcards.seed, wildcards.layer))
    d_sae = settings.expansion * SHAPE.d_model
    matched = min(d_sae, STUDY.drift.exact_matching_limit)
    numbers = (3 * saes + 12) * d_sae * SHAPE.d_model + 4 * STUDY.drift.batch_rows * d_sae + 6 * matched**2
    return attempt * (1500 + 4 * numbers // 10**6)


rule measure_drift:
    input:
        unpack(drift_inputs),
    output:
        sums=f"{CELL}/sums.safetensors",
        latents=f"{CELL}/latents.parquet",
        dictionary=f"{CELL}/dictionary.parquet",
        lineage=f"{CELL}/lineage.parquet",
        manifest=f"{CELL}/manifest.json",
        provenance=f"{CELL}/provenance.json",
    log:
        "results/logs/measure_drift/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/measure_drift/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: THREADS
    resources:
        mem_mb=drift_memory,
        runtime=120,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=drift_settings,
        code=code("workflow/drift/measure_drift.py"),
    script:
        "../workflow/drift/measure_drift.py"


DRIFT_CELLS = expand(
    CELL,
    run=STUDY.runs,
    text=STUDY.design.texts,
    kind=STUDY.design.kinds,
    seed=STUDY.design.seeds,
    layer=LAYERS,
)


rule drift_tables:
    input:
        sums=ancient([f"{cell}/sums.safetensors" for cell in DRIFT_CELLS]),
        manifests=[f"{cell}/manifest.json" for cell in DRIFT_CELLS],
        latents=ancient([f"{cell}/latents.parquet" for cell in DRIFT_CELLS]),
        dictionaries=ancient([f"{cell}/dictionary.parquet" for cell in DRIFT_CELLS]),
        lineages=ancient([f"{cell}/lineage.parquet" for cell in DRIFT_CELLS]),
        policies=[policy_files(run, stage)["policy"] for run, stage in every_policy()],
    output:
        **{table: f"results/drift/{table}.parquet" for table in TABLES},
        **{f"{table}_csv": f"results/drift/{table}.csv" for table in TABLES},
        manifest="results/drift/manifest.json",
        provenance="results/drift/provenance.json",
    log:
        "results/logs/drift_tables.log",
    benchmark:
        "results/benchmarks/drift_tables.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(2000),
        runtime=60,
        torch_threads=1,
    params:
        cfg={
            "drift": SEQUENTIAL_DRIFT,
            "runs": {run: recipe._asdict() for run, recipe in sorted(recipes(STUDY).items())},
        },
        code=code("workflow/drift/drift_tables.py"),
    script:
        "../workflow/drift/drift_tables.py"


rule drift:
    input:
        "results/drift/manifest.json",
        lambda wildcards: [f"results/drift/{table}.json" for table in JOINT_TABLES],
