"""Phase drift: whether the crosscoders and the chains of SAEs say the same of single latents.

in:  crosscoders and what was measured of them, the SAEs of the chain real and what became of their latents
out: results/drift/{run}/{text}/{kind}/seed_{seed}/layer_{layer}/crosscoders/matches.parquet, results/drift/agreement.{parquet,csv}
"""

COMPARED = expand(CELL, run=STUDY.runs, text=["fixed"], kind=STUDY.design.kinds, seed=STUDY.design.seeds, layer=LAYERS)
COMPARED_SAES = sorted(
    {
        sae_folder(run, STUDY.saes.text, kind, "real", seed, stage, layer)
        for run in STUDY.runs
        for kind in STUDY.design.kinds
        for seed in STUDY.design.seeds
        for stage in stage_names(run)
        for layer in LAYERS
    }
)


def agreement_memory(wildcards, attempt):
    """Megabytes of one crosscoder beside the SAEs of one chain, their directions in float64, and a block of cosines."""
    expansions = [STUDY.saes.settings(kind, int(layer), 0).expansion for kind in STUDY.design.kinds for layer in LAYERS]
    d_sae, stages = SHAPE.d_model * max(expansions), max(len(stage_names(run)) for run in STUDY.runs)
    numbers = 5 * stages * (d_sae + STUDY.drift.crosscoder.expansion * SHAPE.d_model) * SHAPE.d_model + 4 * 1024 * d_sae
    return attempt * (1500 + 4 * numbers // 10**6)


rule agreement_table:
    input:
        crosscoders=[f"{cell}/manifest.json" for cell in CROSSCODER_CELLS],
        crosscoders_bulk=ancient([f"{cell}/crosscoder.safetensors" for cell in CROSSCODER_CELLS]),
        measured=[f"{cell}/measured.json" for cell in CROSSCODER_CELLS],
        told=ancient([f"{cell}/latents.parquet" for cell in CROSSCODER_CELLS]),
        measurements=[f"{cell}/manifest.json" for cell in COMPARED],
        chains=ancient([f"{cell}/latents.parquet" for cell in COMPARED]),
        saes=[f"{folder}/manifest.json" for folder in COMPARED_SAES],
        saes_bulk=ancient([f"{folder}/sae.safetensors" for folder in COMPARED_SAES]),
    output:
        matches=[f"{cell}/crosscoders/matches.parquet" for cell in COMPARED],
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
        mem_mb=agreement_memory,
        runtime=60,
        torch_threads=1,
    params:
        cfg={"ancestor_cosine": STUDY.drift.ancestor_cosine},
        code=code("workflow/drift/agreement_table.py"),
    script:
        "../workflow/drift/agreement_table.py"
