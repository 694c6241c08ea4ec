"""Phase drift, tables of what is measured over stages that read the same rows.

in:  what representations and crosscoders were measured to be
out: results/drift/{representation,crosscoder}.{parquet,csv,json}
"""


rule representation_table:
    input:
        sums=ancient([f"{cell}/sums.safetensors" for cell in ALIKE_CELLS]),
        manifests=[f"{cell}/manifest.json" for cell in ALIKE_CELLS],
        policies=[policy_files(run, stage)["policy"] for run, stage in every_policy()],
    output:
        representation="results/drift/representation.parquet",
        representation_csv="results/drift/representation.csv",
        manifest="results/drift/representation.json",
        provenance="results/drift/representation.provenance.json",
    log:
        "results/logs/representation_table.log",
    benchmark:
        "results/benchmarks/representation_table.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=30,
        torch_threads=1,
    params:
        cfg={"confidence": STUDY.drift.confidence},
        code=code("workflow/drift/representation_table.py"),
    script:
        "../workflow/drift/representation_table.py"


rule crosscoder_table:
    input:
        stages=ancient([f"{cell}/stages.parquet" for cell in CROSSCODER_CELLS]),
        manifests=[f"{cell}/measured.json" for cell in CROSSCODER_CELLS],
        policies=[policy_files(run, stage)["policy"] for run, stage in every_policy()],
    output:
        crosscoder="results/drift/crosscoder.parquet",
        crosscoder_csv="results/drift/crosscoder.csv",
        manifest="results/drift/crosscoder.json",
        provenance="results/drift/crosscoder.provenance.json",
    log:
        "results/logs/crosscoder_table.log",
    benchmark:
        "results/benchmarks/crosscoder_table.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=30,
        torch_threads=1,
    params:
        cfg={},
        code=code("workflow/drift/crosscoder_table.py"),
    script:
        "../workflow/drift/crosscoder_table.py"


JOINT_TABLES = ["representation"] * bool(PAIRED_TEXTS) + ["crosscoder", "agreement"] * WITH_CROSSCODER
JOINT_PROVENANCES = [
    *[f"{cell}/provenance.json" for cell in ALIKE_CELLS],
    *[f"{cell}/{part}provenance.json" for cell in CROSSCODER_CELLS * WITH_CROSSCODER for part in ("", "measured.")],
]
