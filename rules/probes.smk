"""Phase probes: what is known of the steps of a pool of solutions, and what of them probes may read.

in:  results/traces/{run}/pool/{stage}, a policy, SAEs
out: results/probes/labels/{run}/pool/{stage}/labels.parquet; results/probes/features/{run}/pool/{stage}/layer_{layer}/features.h5
"""

LABELLED = "results/probes/labels/{run}/pool/{stage}"
USER_LABELS = [STUDY.probes.labels] if STUDY.probes.labels else []


def pool_files(wildcards):
    """The solutions of a policy, and the policy."""
    folder = trace_folder(wildcards.run, POOL, wildcards.stage)
    return {
        "traces": ancient(f"{folder}/traces.parquet"),
        "traces_manifest": f"{folder}/manifest.json",
        **policy_files(wildcards.run, wildcards.stage),
    }


def label_tables(wildcards):
    """Labels that are made apart, where they are asked for."""
    made = {"values": STUDY.probes.value.continuations > 0, "verdicts": STUDY.probes.judge is not None}
    folders = [f"results/probes/{name}/{wildcards.run}/pool/{wildcards.stage}" for name, wanted in made.items() if wanted]
    return {
        "tables_manifests": [f"{folder}/manifest.json" for folder in folders],
        "tables": ancient([f"{folder}/labels.parquet" for folder in folders]),
    }


rule continue_steps:
    input:
        unpack(pool_files),
    output:
        labels="results/probes/values/{run}/pool/{stage}/labels.parquet",
        manifest="results/probes/values/{run}/pool/{stage}/manifest.json",
        provenance="results/probes/values/{run}/pool/{stage}/provenance.json",
    log:
        "results/logs/continue_steps/{run}/{stage}.log",
    benchmark:
        "results/benchmarks/continue_steps/{run}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(2000, weights=2),
        runtime=2880,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg={
            "compute": MACHINE,
            "value": {
                **STUDY.probes.value.params(),
                "batch": STUDY.traces.batch,
                "engine": STUDY.traces.engine,
                "max_new_tokens": STUDY.probes.value.max_new_tokens or STUDY.traces.pool_tokens,
            },
        },
        code=code("workflow/probes/continue_steps.py", "lm"),
    script:
        "../workflow/probes/continue_steps.py"


rule judge_steps:
    input:
        unpack(pool_files),
        **PROBLEMS,
    output:
        labels="results/probes/verdicts/{run}/pool/{stage}/labels.parquet",
        manifest="results/probes/verdicts/{run}/pool/{stage}/manifest.json",
        provenance="results/probes/verdicts/{run}/pool/{stage}/provenance.json",
    log:
        "results/logs/judge_steps/{run}/{stage}.log",
    benchmark:
        "results/benchmarks/judge_steps/{run}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=2880,
        torch_threads=1,
    params:
        cfg={"judge": STUDY.probes.judge.params() if STUDY.probes.judge else None},
        code=code("workflow/probes/judge_steps.py", "lm"),
    script:
        "../workflow/probes/judge_steps.py"


rule label_steps:
    input:
        unpack(pool_files),
        unpack(label_tables),
        **PROBLEMS,
        user=USER_LABELS,
    output:
        labels=f"{LABELLED}/labels.parquet",
        manifest=f"{LABELLED}/manifest.json",
        provenance=f"{LABELLED}/provenance.json",
    log:
        "results/logs/label_steps/{run}/{stage}.log",
    benchmark:
        "results/benchmarks/label_steps/{run}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=60,
        torch_threads=1,
    params:
        cfg={"constants": STUDY.probes.constants},
        code=code("workflow/probes/label_steps.py", "lm"),
    script:
        "../workflow/probes/label_steps.py"


FEATURED = "results/probes/features/{run}/pool/{stage}"


def pool_saes(wildcards):
    """Folders of the SAEs of the chain real at a stage, and behind base of those of base, at every layer."""
    run = STUDY.runs[0] if wildcards.run == SHARED else wildcards.run
    return [
        sae_folder(run, STUDY.saes.text, kind, "real", seed, stage, layer)
        for layer in LAYERS
        for kind in STUDY.design.kinds
        for seed in STUDY.design.seeds
        for stage in dict.fromkeys([wildcards.stage, "base"])
    ]


def feature_inputs(wildcards):
    """Solutions, policy, its held-out rows, and SAEs."""
    run = STUDY.runs[0] if wildcards.run == SHARED else wildcards.run
    stores, bulk = shard_files(run, STUDY.saes.text, wildcards.stage, "heldout")
    folders = pool_saes(wildcards)
    return {
        **pool_files(wildcards),
        "stores": stores,
        "stores_bulk": bulk,
        "saes": [f"{folder}/manifest.json" for folder in folders],
        "saes_bulk": ancient([f"{folder}/sae.safetensors" for folder in folders]),
    }


def feature_memory(wildcards, attempt):
    """Megabytes: the policy, all SAEs with what they started from, rows and codes of one pass, features of one block."""
    d_sae = max(STUDY.saes.settings(kind, layer, 0).expansion for kind in STUDY.design.kinds for layer in LAYERS) * SHAPE.d_model
    coders = 2 * len(pool_saes(wildcards)) + len(LAYERS)
    numbers = SHAPE.parameters + 3 * coders * d_sae * SHAPE.d_model + 6 * STUDY.activations.batch_tokens * d_sae
    return attempt * (2500 + 4 * numbers // 10**6)


rule step_features:
    input:
        unpack(feature_inputs),
        **PROBLEMS,
    output:
        features=[f"{FEATURED}/layer_{layer}/features.h5" for layer in LAYERS],
        manifests=[f"{FEATURED}/layer_{layer}/manifest.json" for layer in LAYERS],
        provenance=f"{FEATURED}/provenance.json",
    log:
        "results/logs/step_features/{run}/{stage}.log",
    benchmark:
        "results/benchmarks/step_features/{run}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=feature_memory,
        runtime=480,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg={
            "batch_tokens": STUDY.activations.batch_tokens,
            "compute": {**MACHINE, "backend": STUDY.compute.backend},
            "features": STUDY.probes.features.params(),
            "layers": LAYERS,
            "rows": ROW_FILTER,
        },
        code=code("workflow/probes/step_features.py", "lm"),
    script:
        "../workflow/probes/step_features.py"
