"""Phase traces: sampled and reference solutions, graded, as text sets.

in:  results/problems, a policy
out: results/traces/{run}/{text}/{stage}/{traces.parquet,manifest.json}; text fixed, replayed, onpolicy, greedy, or pool
"""


def trace_folder(run, text, stage):
    """Where the traces lie that a policy of (run, stage) reads in a text set."""
    match text:
        case "fixed":
            return "results/traces/shared/fixed/reference"
        case "replayed":
            return f"results/traces/{run}/replayed/replay"
    return f"results/traces/{STUDY.home(run, text, stage)}/{text}/{stage}"


def sampling_settings(wildcards):
    """Sampling of the text set, of the pool, or greedy decoding of the first problems of the test split."""
    settings = STUDY.traces.params()
    limit, pool = settings.pop("greedy_problems"), settings.pop("pool")
    problems = {split: count for split, count in pool.pop("problems").items() if count}
    of_text = {
        "greedy": {"limit": limit, "samples": 1, "splits": ["test"], "temperature": 0.0, "top_p": 1.0},
        "pool": {**pool, "limit": problems, "max_new_tokens": STUDY.traces.pool_tokens, "splits": list(problems)},
    }
    settings = dict(sorted((settings | of_text.get(wildcards.text, {"limit": None})).items()))
    return {"compute": MACHINE, "prompts": STUDY.prompts.params(), "traces": settings}


def replayed_traces(wildcards):
    """What the first and the last stage of a run wrote."""
    stages = stage_names(wildcards.run)
    folders = [trace_folder(wildcards.run, "onpolicy", stage) for stage in (stages[0], stages[-1])]
    return {
        "manifests": [f"{folder}/manifest.json" for folder in folders],
        "traces": ancient([f"{folder}/traces.parquet" for folder in folders]),
    }


rule fixed_text:
    input:
        unpack(lambda wildcards: policy_files(SHARED, "base")),
        **PROBLEMS,
    output:
        traces="results/traces/shared/fixed/reference/traces.parquet",
        manifest="results/traces/shared/fixed/reference/manifest.json",
        provenance="results/traces/shared/fixed/reference/provenance.json",
    log:
        "results/logs/fixed_text.log",
    benchmark:
        "results/benchmarks/fixed_text.tsv"
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=30,
        torch_threads=1,
    params:
        cfg={"prompts": STUDY.prompts.params()},
        code=code("workflow/traces/fixed_text.py"),
    script:
        "../workflow/traces/fixed_text.py"


rule sample_traces:
    input:
        unpack(lambda wildcards: policy_files(wildcards.run, wildcards.stage)),
        **PROBLEMS,
    output:
        traces="results/traces/{run}/{text}/{stage}/traces.parquet",
        manifest="results/traces/{run}/{text}/{stage}/manifest.json",
        provenance="results/traces/{run}/{text}/{stage}/provenance.json",
    log:
        "results/logs/sample_traces/{run}/{text}/{stage}.log",
    benchmark:
        "results/benchmarks/sample_traces/{run}/{text}/{stage}.tsv"
    wildcard_constraints:
        text="onpolicy|greedy|pool",
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(2000, weights=2),
        runtime=480,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=sampling_settings,
        code=code("workflow/traces/sample_traces.py"),
    script:
        "../workflow/traces/sample_traces.py"


rule replayed_text:
    input:
        unpack(replayed_traces),
    output:
        traces="results/traces/{run}/replayed/replay/traces.parquet",
        manifest="results/traces/{run}/replayed/replay/manifest.json",
        provenance="results/traces/{run}/replayed/replay/provenance.json",
    log:
        "results/logs/replayed_text/{run}.log",
    benchmark:
        "results/benchmarks/replayed_text/{run}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=30,
        torch_threads=1,
    params:
        cfg={},
        code=code("workflow/traces/replayed_text.py"),
    script:
        "../workflow/traces/replayed_text.py"


SAMPLED = [
    trace_folder(run, text, stage)
    for run, stage in every_policy()
    for text in ["onpolicy"] + (["greedy"] if STUDY.traces.greedy_problems else [])
] + [trace_folder(run, POOL, stage) for run, stage in every_pool(STUDY)]


rule traces:
    input:
        [f"{folder}/manifest.json" for folder in SAMPLED],
        "results/traces/shared/fixed/reference/manifest.json",
        [f"{trace_folder(run, 'replayed', '')}/manifest.json" for run in STUDY.runs],
