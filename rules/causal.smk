"""Phase interventions, third part: single latents silenced, driven, and transplanted into base.

in:  policies, traces, held-out shards, SAEs of the chains real and null
out: results/interventions/causal/…/sums.parquet; results/drift/causal.{parquet,csv}
"""

CAUSED = OUTSIDE + "/causal/{run}/{text}/{kind}/seed_{seed}/layer_{layer}"


def causal_inputs(wildcards):
    """Texts, rows and policy of the last stage, base, and the SAEs of both chains at that stage and at base."""
    w = wildcards
    stage = stage_names(w.run)[-1]
    stores, bulk = shard_files(w.run, w.text, stage, "heldout", [w.layer])
    cells = {"real": ("real", stage), "null": ("null", stage), "base_sae": ("real", "base")}
    folders = {name: sae_folder(w.run, STUDY.saes.text, w.kind, chain, w.seed, at, w.layer) for name, (chain, at) in cells.items()}
    traces = trace_folder(w.run, w.text, stage)
    return {
        "traces": ancient(f"{traces}/traces.parquet"),
        "traces_manifest": f"{traces}/manifest.json",
        **policy_files(w.run, stage),
        "base_policy": "results/policies/shared/base/manifest.json",
        "base": ancient("results/policies/shared/base/model"),
        "stores": stores,
        "stores_bulk": bulk,
        **one_mask(w.run, w.text, w.layer),
        **{name: f"{folder}/manifest.json" for name, folder in folders.items()},
        "saes_bulk": ancient([f"{folder}/sae.safetensors" for folder in folders.values()]),
    }


def causal_settings(wildcards):
    """Settings of one causal check."""
    settings = STUDY.interventions.causal
    plan = {name: getattr(settings, name) for name in ("draws", "latents", "seed", "strengths")}
    alive = {name: getattr(STUDY.drift, name) for name in ("min_firings", "min_prompts")}
    return {
        "plan": dict(sorted({**plan, **alive, "stage": stage_names(wildcards.run)[-1]}.items())),
        "reading": reading(settings.problems, settings.dtype),
        "rows": ROW_FILTER,
    }


EVERY_CHECK = expand(
    CAUSED,
    run=STUDY.runs,
    text=STUDY.intervened_texts,
    kind=STUDY.design.kinds,
    seed=STUDY.design.seeds,
    layer=LAYERS,
)


if STUDY.interventions.causal.latents:

    rule causal:
        input:
            unpack(causal_inputs),
        output:
            sums=f"{CAUSED}/sums.parquet",
            manifest=f"{CAUSED}/manifest.json",
            provenance=f"{CAUSED}/provenance.json",
        log:
            "results/logs/causal/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.log",
        benchmark:
            "results/benchmarks/causal/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.tsv"
        conda:
            "../envs/lm.yaml"
        threads: THREADS
        resources:
            mem_mb=lambda wildcards, attempt: splice_memory(wildcards, attempt) + attempt * 4 * SHAPE.parameters // 10**6,
            runtime=480,
            gpu=GPU,
            torch_threads=STUDY.compute.threads,
        params:
            cfg=causal_settings,
            code=code("workflow/interventions/causal.py"),
        script:
            "../workflow/interventions/causal.py"

    rule causal_tables:
        input:
            checks=[f"{folder}/manifest.json" for folder in EVERY_CHECK],
            sums=ancient([f"{folder}/sums.parquet" for folder in EVERY_CHECK]),
        output:
            causal="results/drift/causal.parquet",
            causal_csv="results/drift/causal.csv",
            manifest="results/interventions/causal/manifest.json",
            provenance="results/interventions/causal/provenance.json",
        log:
            "results/logs/causal_tables.log",
        benchmark:
            "results/benchmarks/causal_tables.tsv"
        conda:
            "../envs/numerics.yaml"
        threads: ONE_THREAD
        resources:
            mem_mb=memory(1500),
            runtime=30,
            torch_threads=1,
        params:
            cfg=TABLE_SETTINGS,
            code=code("workflow/drift/causal_tables.py"),
        script:
            "../workflow/drift/causal_tables.py"


CAUSAL_TABLES = ["causal"] if STUDY.interventions.causal.latents else []
INTERVENED = [
    f"results/interventions/{tables[0]}/manifest.json" for tables in (SPLICE_TABLES, SOLVING_TABLES, CAUSAL_TABLES) if tables
]

INTERVENED_FOLDERS = [
    *(dict.fromkeys([*EVERY_SPLICE, *EVERY_COMPARISON]) if SPLICE_TABLES else []),
    *(EVERY_SOLVED if SOLVING_TABLES else []),
    *(EVERY_CHECK if CAUSAL_TABLES else []),
]


rule interventions:
    input:
        INTERVENED,
