"""Phase interventions, second part: problems solved by policies with SAEs in the place of their rows.

in:  policies, traces (for prompts and gold answers), held-out shards, SAEs
out: results/interventions/solving/…/sums.parquet; results/drift/solving.{parquet,csv}
"""

SOLVED = OUTSIDE + "/solving/{run}/{text}/{kind}/seed_{seed}/{stage}/layer_{layer}"
EVERY_SOLVED = list(
    dict.fromkeys(
        SOLVED.format(
            run=STUDY.home(run, STUDY.solved_text, stage), text=STUDY.solved_text, kind=kind, seed=seed, stage=stage, layer=layer
        )
        for run in STUDY.runs
        for kind in STUDY.design.kinds
        for seed in STUDY.design.seeds
        for stage in stage_names(run)
        for layer in LAYERS
    )
)


if STUDY.interventions.solving.problems:

    rule solve_spliced:
        input:
            unpack(put_inputs),
        output:
            sums=f"{SOLVED}/sums.parquet",
            manifest=f"{SOLVED}/manifest.json",
            provenance=f"{SOLVED}/provenance.json",
        log:
            "results/logs/solve_spliced/{run}/{text}/{kind}/seed_{seed}/{stage}/layer_{layer}.log",
        benchmark:
            "results/benchmarks/solve_spliced/{run}/{text}/{kind}/seed_{seed}/{stage}/layer_{layer}.tsv"
        conda:
            "../envs/lm.yaml"
        threads: THREADS
        resources:
            mem_mb=lambda wildcards, attempt: splice_memory(wildcards, attempt) + attempt * 1000,
            runtime=480,
            gpu=GPU,
            torch_threads=STUDY.compute.threads,
        params:
            cfg=lambda wildcards: {
                "ablations": sorted(STUDY.interventions.ablations),
                "compute": MACHINE,
                "rows": ROW_FILTER,
                "saes": list(spliced_saes(wildcards)),
                "writing": STUDY.interventions.solving.params(),
            },
            code=code("workflow/interventions/solve_spliced.py"),
        script:
            "../workflow/interventions/solve_spliced.py"

    rule solving_tables:
        input:
            solved=[f"{folder}/manifest.json" for folder in EVERY_SOLVED],
            sums=ancient([f"{folder}/sums.parquet" for folder in EVERY_SOLVED]),
        output:
            solving="results/drift/solving.parquet",
            solving_csv="results/drift/solving.csv",
            manifest="results/interventions/solving/manifest.json",
            provenance="results/interventions/solving/provenance.json",
        log:
            "results/logs/solving_tables.log",
        benchmark:
            "results/benchmarks/solving_tables.tsv"
        conda:
            "../envs/numerics.yaml"
        threads: ONE_THREAD
        resources:
            mem_mb=memory(1500),
            runtime=30,
            torch_threads=1,
        params:
            cfg=TABLE_SETTINGS,
            code=code("workflow/drift/solving_tables.py"),
        script:
            "../workflow/drift/solving_tables.py"


SOLVING_TABLES = ["solving"] if STUDY.interventions.solving.problems else []
