"""Phase problems: one table of questions with known answers, split by problem.

in:  a generator, a data set of the hub, or a local file (problems.source)
out: results/problems/problems.parquet
"""


def problem_source(wildcards):
    """The local file behind problems.source, if it is one."""
    source = STUDY.problems.source
    return {} if source == "gsm8k" or source.startswith(("reasoning_gym:", "hub:")) else {"source": source}


rule make_problems:
    input:
        unpack(problem_source),
    output:
        problems="results/problems/problems.parquet",
        manifest="results/problems/manifest.json",
        provenance="results/problems/provenance.json",
    log:
        "results/logs/make_problems.log",
    benchmark:
        "results/benchmarks/make_problems.tsv"
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(2000),
        runtime=30,
        torch_threads=1,
    params:
        cfg={"problems": STUDY.problems.params()},
        code=code("workflow/problems/make_problems.py"),
    script:
        "../workflow/problems/make_problems.py"


rule problems:
    input:
        "results/problems/manifest.json",
