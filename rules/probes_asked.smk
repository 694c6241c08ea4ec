"""Phase probes: labels of steps that are made where they are asked for, by continuation and by a judge.

in:  results/traces/{run}/pool/{stage}, a policy
out: results/probes/{values,verdicts}/{run}/pool/{stage}/labels.parquet
"""


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
