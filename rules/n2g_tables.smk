"""Phase n2g: the tables over all SAEs.

in:  what was mined and followed
out: results/n2g/{n2g,n2g_scores,n2g_transfer,n2g_paths,n2g_steps}.{parquet,csv}
"""

N2G_CELLS = expand(
    N2G_CELL,
    run=STUDY.runs if STUDY.n2g.latents else [],
    text=STUDY.saes.text,
    kind=STUDY.design.kinds,
    seed=STUDY.design.seeds,
    layer=LAYERS,
)
N2G_MINED = [f"{cell}/{stage}" for cell in N2G_CELLS for stage in STUDY.n2g_stages(cell.split("/")[2])]
N2G_PARTS = {
    "n2g": [f"{folder}/latents.parquet" for folder in N2G_MINED],
    "n2g_scores": [f"{folder}/scores.parquet" for folder in N2G_MINED],
    "n2g_transfer": [f"{cell}/transfer.parquet" for cell in N2G_CELLS],
    "n2g_paths": [f"{cell}/paths.parquet" for cell in N2G_CELLS],
    "n2g_steps": [f"{folder}/latents.parquet" for folder in STEP_N2G_FOLDERS],
}
N2G_TABLES = [table for table, parts in N2G_PARTS.items() if parts]


N2G_LABELLED = N2G_MINED if STUDY.n2g.labels else []


rule label_n2g:
    input:
        manifest=f"{N2G}/manifest.json",
        graphs=ancient(f"{N2G}/graphs.json"),
    output:
        labels=f"{N2G}/labels.parquet",
        provenance=f"{N2G}/labels.provenance.json",
    log:
        "results/logs/label_n2g/{run}/{text}/{kind}/seed_{seed}/layer_{layer}/{stage}.log",
    benchmark:
        "results/benchmarks/label_n2g/{run}/{text}/{kind}/seed_{seed}/layer_{layer}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(500),
        runtime=240,
        torch_threads=1,
    params:
        cfg={"labels": STUDY.n2g.params()["labels"]},
        code=code("workflow/n2g/label_n2g.py"),
    script:
        "../workflow/n2g/label_n2g.py"


if N2G_TABLES:

    rule make_n2g_tables:
        input:
            **{table: ancient(N2G_PARTS[table]) for table in N2G_TABLES},
            labels=[f"{folder}/labels.parquet" for folder in N2G_LABELLED],
            manifests=[f"{folder}/manifest.json" for folder in N2G_MINED + STEP_N2G_FOLDERS]
            + [f"{cell}/followed.json" for cell in N2G_CELLS],
        output:
            **{table: f"results/n2g/{table}.parquet" for table in N2G_TABLES},
            **{f"{table}_csv": f"results/n2g/{table}.csv" for table in N2G_TABLES},
            manifest="results/n2g/manifest.json",
            provenance="results/n2g/provenance.json",
        log:
            "results/logs/make_n2g_tables.log",
        benchmark:
            "results/benchmarks/make_n2g_tables.tsv"
        conda:
            "../envs/lm.yaml"
        threads: ONE_THREAD
        resources:
            mem_mb=memory(1000),
            runtime=30,
            torch_threads=1,
        params:
            cfg={"tables": N2G_TABLES},
            code=code("workflow/n2g/make_n2g_tables.py"),
        script:
            "../workflow/n2g/make_n2g_tables.py"


rule n2g:
    input:
        ["results/n2g/manifest.json"] if N2G_TABLES else [],
