"""Phase interventions: the tables of what the language model did, where they were asked for.

in:  sums of all splices and comparisons
out: results/drift/{splice,outputs}.{parquet,csv}
"""


def spliced_folder(run, text, kind, seed, stage, layer):
    """Where a splice lies; that of `base` is shared where its rows are those of no other stage."""
    home = run if text in PAIRED_TEXTS else STUDY.home(run, text, stage)
    return SPLICED.format(run=home, text=text, kind=kind, seed=seed, stage=stage, layer=layer)


EVERY_SPLICE = [
    spliced_folder(run, text, kind, seed, stage, layer)
    for run in STUDY.runs
    for text in STUDY.intervened_texts
    for kind in STUDY.design.kinds
    for seed in STUDY.design.seeds
    for stage in stage_names(run)
    for layer in LAYERS
]
EVERY_COMPARISON = [COMPARED.format(run=run, text=text, stage=stage) for run, stage in hop_runs() for text in STUDY.design.texts]


TABLE_SETTINGS = {
    "bootstrap": {name: STUDY.drift.params()[name] for name in ("confidence", "replicates", "seed")},
    "stages": {run: [[stage.name, stage.update] for stage in STUDY.stages(run)] for run in sorted(STUDY.runs)},
}


if STUDY.interventions.problems:

    rule splice_tables:
        input:
            splices=[f"{folder}/manifest.json" for folder in dict.fromkeys(EVERY_SPLICE)],
            splice_sums=ancient([f"{folder}/sums.parquet" for folder in dict.fromkeys(EVERY_SPLICE)]),
            outputs=[f"{folder}/manifest.json" for folder in EVERY_COMPARISON],
            outputs_sums=ancient([f"{folder}/sums.parquet" for folder in EVERY_COMPARISON]),
        output:
            splice="results/drift/splice.parquet",
            splice_csv="results/drift/splice.csv",
            outputs="results/drift/outputs.parquet",
            outputs_csv="results/drift/outputs.csv",
            manifest="results/interventions/splice/manifest.json",
            provenance="results/interventions/splice/provenance.json",
        log:
            "results/logs/splice_tables.log",
        benchmark:
            "results/benchmarks/splice_tables.tsv"
        conda:
            "../envs/numerics.yaml"
        threads: ONE_THREAD
        resources:
            mem_mb=memory(1500),
            runtime=30,
            torch_threads=1,
        params:
            cfg=TABLE_SETTINGS,
            code=code("workflow/drift/splice_tables.py"),
        script:
            "../workflow/drift/splice_tables.py"


SPLICE_TABLES = ["splice", "outputs"] if STUDY.interventions.problems else []
