"""Phase drift: whether the crosscoders and the chains of SAEs say the same of single latents.

in:  crosscoders and what was measured of them, the SAEs of the chain real and what became of their latents
out: results/drift/{run}/{text}/{kind}/seed_{seed}/layer_{layer}/crosscoders/{matches,agreement}.parquet, results/drift/agreement.{parquet,csv}
"""

MATCHED = CELL + "/crosscoders"


def matched_inputs(wildcards):
    """The crosscoders of a run and layer with what was measured of them, the SAEs of `real`, and what became of their latents."""
    w = wildcards
    together = [TOGETHER.format(run=w.run, text=w.text, seed=seed, layer=w.layer) for seed in STUDY.drift.crosscoder.seeds]
    folders = [sae_folder(w.run, STUDY.saes.text, w.kind, "real", w.seed, stage, w.layer) for stage in stage_names(w.run)]
    return {
        "crosscoders": [f"{folder}/manifest.json" for folder in together],
        "crosscoders_bulk": ancient([f"{folder}/crosscoder.safetensors" for folder in together]),
        "measured": [f"{folder}/measured.json" for folder in together],
        "told": ancient([f"{folder}/latents.parquet" for folder in together]),
        "saes": [f"{folder}/manifest.json" for folder in folders],
        "saes_bulk": ancient([f"{folder}/sae.safetensors" for folder in folders]),
    }


rule match_crosscoder:
    input:
        unpack(matched_inputs),
        drift=f"{CELL}/manifest.json",
        chain=ancient(f"{CELL}/latents.parquet"),
    output:
        matches=f"{MATCHED}/matches.parquet",
        agreement=f"{MATCHED}/agreement.parquet",
        manifest=f"{MATCHED}/manifest.json",
        provenance=f"{MATCHED}/provenance.json",
    log:
        "results/logs/match_crosscoder/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/match_crosscoder/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=lambda wildcards, attempt: crosscoder_memory(wildcards, attempt) + drift_memory(wildcards, attempt),
        runtime=60,
        torch_threads=1,
    params:
        cfg={"ancestor_cosine": STUDY.drift.ancestor_cosine},
        code=code("workflow/drift/match_crosscoder.py"),
    script:
        "../workflow/drift/match_crosscoder.py"


MATCHED_CELLS = expand(
    MATCHED,
    run=STUDY.runs,
    text=["fixed"],
    kind=STUDY.design.kinds,
    seed=STUDY.design.seeds,
    layer=LAYERS,
)


rule agreement_table:
    input:
        agreements=ancient([f"{cell}/agreement.parquet" for cell in MATCHED_CELLS]),
        manifests=[f"{cell}/manifest.json" for cell in MATCHED_CELLS],
    output:
        agreement="results/drift/agreement.parquet",
        agreement_csv="results/drift/agreement.csv",
        manifest="results/drift/agreement.json",
        provenance="results/drift/agreement.provenance.json",
    log:
        "results/logs/agreement_table.log",
    benchmark:
        "results/benchmarks/agreement_table.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=30,
        torch_threads=1,
    params:
        cfg={},
        code=code("workflow/drift/agreement_table.py"),
    script:
        "../workflow/drift/agreement_table.py"
