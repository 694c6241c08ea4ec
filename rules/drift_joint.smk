"""Phase drift, over stages that read the same rows: how alike these are before any SAE.

in:  the held-out shards of all stages on paired texts, the base SAEs
out: results/drift/{run}/{text}/layer_{layer}/representation/sums.safetensors
"""

PAIRED_TEXTS = STUDY.paired_texts
ALIKE = "results/drift/{run}/{text}/layer_{layer}/representation"
PRODUCTS = 3 * STUDY.drift.representation.jackknife_groups + 40
"""Products of two stages that are held at once: three of every group, their total, and what measures make of them."""


def paired_stores(wildcards):
    """Held-out shards of every stage on one text set."""
    w = wildcards
    shards = [shard_files(w.run, w.text, stage, "heldout", [w.layer]) for stage in stage_names(w.run)]
    return {
        "stores": [manifest for manifests, _ in shards for manifest in manifests],
        "stores_bulk": [path for _, bulk in shards for path in bulk],
    }


def base_saes(wildcards):
    """The SAEs of base of every kind and seed at one layer."""
    w = wildcards
    cells = [(kind, seed) for kind in STUDY.design.kinds for seed in STUDY.design.seeds]
    folders = [sae_folder(w.run, STUDY.saes.text, kind, "real", seed, "base", w.layer) for kind, seed in cells]
    return {
        "saes": [f"{folder}/manifest.json" for folder in folders],
        "saes_bulk": ancient([f"{folder}/sae.safetensors" for folder in folders]),
    }


def joint_settings(wildcards):
    """What all measures over paired rows are told."""
    return {
        "compute": {"device": STUDY.compute.device},
        "rows": ROW_FILTER,
        "stages": [[stage.name, stage.update] for stage in STUDY.stages(wildcards.run)],
    }


rule representation:
    input:
        unpack(paired_stores),
        unpack(base_saes),
    output:
        sums=f"{ALIKE}/sums.safetensors",
        manifest=f"{ALIKE}/manifest.json",
        provenance=f"{ALIKE}/provenance.json",
    log:
        "results/logs/representation/{run}/{text}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/representation/{run}/{text}/layer_{layer}.tsv"
    wildcard_constraints:
        text="fixed|replayed",
    conda:
        "../envs/numerics.yaml"
    threads: THREADS
    resources:
        mem_mb=lambda wildcards, attempt: attempt * (1500 + PRODUCTS * 8 * SHAPE.d_model**2 // 10**6),
        runtime=120,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=lambda wildcards: {**joint_settings(wildcards), "representation": STUDY.drift.representation.params()},
        code=code("workflow/drift/representation.py"),
    script:
        "../workflow/drift/representation.py"


ALIKE_CELLS = expand(ALIKE, run=STUDY.runs, text=PAIRED_TEXTS, layer=LAYERS)
