"""Phase voting: answers by votes of several traces of a pool, with and without probes.

in:  pools of traces, scores of probes on their steps where probes are fitted
out: results/voting/pools/{run}/{stage}/…; results/voting/{answers,voting,voting_curves,voting_tests,voting_tuning}.{parquet,csv}
"""

VOTED = "results/voting/pools/{run}/{stage}"
VOTED_POOLS = [VOTED.format(run=run, stage=stage) for run, stage in POOLS] if STUDY.voting.enabled else []
VOTING_TABLES = ["answers", "voting", "voting_curves", "voting_tests", "voting_tuning"]


def scores_of_probes(wildcards):
    """What probes say of the steps of a pool, where one of the tasks is fitted."""
    if not set(STUDY.voting.tasks) & {*STUDY.probes.fits.tasks, *STUDY.probes.fits.thresholds}:
        return {}
    folder = PROBE_SCORES.format(run=wildcards.run, stage=wildcards.stage)
    return {"scores_manifest": f"{folder}/manifest.json", "scores": ancient(f"{folder}/scores.parquet")}


rule vote_pool:
    input:
        unpack(scores_of_probes),
        **PROBLEMS,
        pool="results/traces/{run}/pool/{stage}/manifest.json",
        traces=ancient("results/traces/{run}/pool/{stage}/traces.parquet"),
    output:
        **{table: f"{VOTED}/{table}.parquet" for table in VOTING_TABLES},
        manifest=f"{VOTED}/manifest.json",
        provenance=f"{VOTED}/provenance.json",
    log:
        "results/logs/vote_pool/{run}/{stage}.log",
    benchmark:
        "results/benchmarks/vote_pool/{run}/{stage}.tsv"
    conda:
        "../envs/probes.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(2000),
        runtime=120,
        torch_threads=1,
    params:
        cfg=lambda wildcards: {
            "bootstrap": TABLE_SETTINGS["bootstrap"],
            "update": STUDY.stage(wildcards.run, wildcards.stage).update,
            "voting": STUDY.voting.counting(),
        },
        code=code("workflow/voting/vote_pool.py"),
    script:
        "../workflow/voting/vote_pool.py"


if VOTED_POOLS:

    rule voting_tables:
        input:
            **{table: ancient([f"{folder}/{table}.parquet" for folder in VOTED_POOLS]) for table in VOTING_TABLES},
            manifests=[f"{folder}/manifest.json" for folder in VOTED_POOLS],
        output:
            **{table: f"results/voting/{table}.parquet" for table in VOTING_TABLES},
            **{f"{table}_csv": f"results/voting/{table}.csv" for table in VOTING_TABLES},
            manifest="results/voting/manifest.json",
            provenance="results/voting/provenance.json",
        log:
            "results/logs/voting_tables.log",
        benchmark:
            "results/benchmarks/voting_tables.tsv"
        conda:
            "../envs/probes.yaml"
        threads: ONE_THREAD
        resources:
            mem_mb=memory(1500),
            runtime=30,
            torch_threads=1,
        params:
            cfg={},
            code=code("workflow/voting/voting_tables.py"),
        script:
            "../workflow/voting/voting_tables.py"


rule voting:
    input:
        [f"results/voting/{table}.parquet" for table in VOTING_TABLES if VOTED_POOLS],
