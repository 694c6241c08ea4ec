"""Phase interventions: the language model runs with SAEs in the place of its rows, and beside base.

in:  policies, traces, held-out shards, SAEs
out: results/interventions/{splice,outputs}/…/sums.parquet
"""

OUTSIDE = "results/interventions"
SPLICED = OUTSIDE + "/splice/{run}/{text}/{kind}/seed_{seed}/{stage}/layer_{layer}"
COMPARED = OUTSIDE + "/outputs/{run}/{text}/{stage}"


def reading(problems, dtype="auto"):
    """How texts are read; `auto` is the number format of all jobs."""
    settings = STUDY.activations
    return {
        "batch_tokens": settings.batch_tokens,
        "device": MACHINE["device"],
        "dtype": MACHINE["dtype"] if dtype == "auto" else dtype,
        "max_tokens": settings.max_tokens,
        "problems": problems,
    }


def spliced_saes(wildcards):
    """Folders of the SAEs that are put in the place of a policy's rows, by what they are there."""
    w = wildcards
    run = STUDY.runs[0] if w.run == SHARED else w.run
    chains = {"real": "real"} if w.stage == "base" else {chain: chain for chain in ("real", "null") if chain in STUDY.design.chains}
    found = {name: sae_folder(run, STUDY.saes.text, w.kind, chain, w.seed, w.stage, w.layer) for name, chain in chains.items()}
    if w.stage != "base":
        found["frozen"] = sae_folder(run, STUDY.saes.text, w.kind, "real", w.seed, "base", w.layer)
    return dict(sorted(found.items()))


def one_mask(run, text, layer):
    """Held-out shards of every stage of a run where all read the same tokens: a row that one of them drops is dropped in all."""
    if text not in PAIRED_TEXTS:
        return {}
    shards = [shard_files(run, text, stage, "heldout", [layer]) for stage in stage_names(run)]
    return {
        "paired": [manifest for manifests, _ in shards for manifest in manifests],
        "paired_bulk": [path for _, bulk in shards for path in bulk],
    }


def put_inputs(wildcards):
    """Texts, policy, held-out rows and SAEs, for whatever puts SAEs in the place of rows."""
    w = wildcards
    stores, bulk = shard_files(w.run, w.text, w.stage, "heldout", [w.layer])
    folders = list(spliced_saes(w).values())
    return {
        **text_files(w),
        **policy_files(w.run, w.stage),
        "stores": stores,
        "stores_bulk": bulk,
        "saes": [f"{folder}/manifest.json" for folder in folders],
        "saes_bulk": ancient([f"{folder}/sae.safetensors" for folder in folders]),
    }


def splice_inputs(wildcards):
    """What one splice reads."""
    w = wildcards
    return {**put_inputs(w), **one_mask(w.run, w.text, w.layer)}


def splice_memory(wildcards, attempt):
    """Megabytes: the policy, the SAEs, log-probabilities of one batch, and codes of rows that are encoded together."""
    d_sae = STUDY.saes.settings(wildcards.kind, int(wildcards.layer), 0).expansion * SHAPE.d_model
    numbers = SHAPE.parameters + 3 * 2 * d_sae * SHAPE.d_model + 4 * (1 << 25) + 3 * 4096 * d_sae
    return attempt * (1500 + 4 * numbers // 10**6)


rule splice:
    input:
        unpack(splice_inputs),
    output:
        sums=f"{SPLICED}/sums.parquet",
        manifest=f"{SPLICED}/manifest.json",
        provenance=f"{SPLICED}/provenance.json",
    log:
        "results/logs/splice/{run}/{text}/{kind}/seed_{seed}/{stage}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/splice/{run}/{text}/{kind}/seed_{seed}/{stage}/layer_{layer}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=splice_memory,
        runtime=120,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=lambda wildcards: {
            "ablations": sorted(STUDY.interventions.ablations),
            "reading": reading(STUDY.interventions.problems),
            "rows": ROW_FILTER,
            "saes": list(spliced_saes(wildcards)),
        },
        code=code("workflow/interventions/splice.py"),
    script:
        "../workflow/interventions/splice.py"


rule compare_outputs:
    input:
        unpack(text_files),
        unpack(lambda wildcards: policy_files(wildcards.run, wildcards.stage)),
        base_policy="results/policies/shared/base/manifest.json",
        base=ancient("results/policies/shared/base/model"),
    output:
        sums=f"{COMPARED}/sums.parquet",
        manifest=f"{COMPARED}/manifest.json",
        provenance=f"{COMPARED}/provenance.json",
    log:
        "results/logs/compare_outputs/{run}/{text}/{stage}.log",
    benchmark:
        "results/benchmarks/compare_outputs/{run}/{text}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(2500, weights=2),
        runtime=120,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg={"reading": reading(STUDY.interventions.problems)},
        code=code("workflow/interventions/compare_outputs.py"),
    script:
        "../workflow/interventions/compare_outputs.py"
