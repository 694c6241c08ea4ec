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


rule label_steps:
    input:
        unpack(pool_files),
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
