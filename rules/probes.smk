"""Phase probes: what is known of the steps of a pool of solutions.

in:  results/traces/{run}/pool/{stage}, a policy
out: results/probes/labels/{run}/pool/{stage}/labels.parquet
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
