"""Phase report: one self-contained page over the tables of all phases.

in:  manifests, curves, histories, tables and provenances of all phases
out: results/report/report.html, results/report/figures/, results/report/summary.json
"""

GREEDY = [folder for folder in SAMPLED if "/greedy/" in folder]
HOPS = [f"results/policies/{run}/{stage}" for run, stage in hop_runs()]
EXTRACTION_JOBS = [
    f"results/activations/{run}/{text}/{stage}/{part}/shard_{shard}.provenance.json"
    for run, text, stage, part in every_store(STUDY)
    for shard in SHARDS
]
PROVENANCES = [
    "results/problems/provenance.json",
    *[policy_files(run, stage)["policy"].replace("manifest", "provenance") for run, stage in every_policy()],
    *[f"{folder}/provenance.json" for folder in SAMPLED],
    *EXTRACTION_JOBS,
    *[f"{folder}/provenance.json" for folder in EVERY_SAE],
    *[f"{cell}/provenance.json" for cell in DRIFT_CELLS],
    "results/drift/provenance.json",
    *JOINT_PROVENANCES,
    *[f"results/drift/{table}.provenance.json" for table in JOINT_TABLES],
    *[manifest.replace("manifest", "provenance") for manifest in INTERVENED],
    *[f"{folder}/provenance.json" for folder in INTERVENED_FOLDERS],
    *[f"{folder}/provenance.json" for folder in SSAE_FOLDERS + SSAE_MEASURED],
    *["results/ssae/tables.provenance.json" for table in SSAE_TABLES[:1]],
    *["results/probes/provenance.json" for table in PROBE_TABLES[:1]],
    *[f"{folder}/provenance.json" for folder in PROBE_FIT_FOLDERS + PROBE_SCORE_FOLDERS + TRANSFERRED],
    *["results/ssae/latents.provenance.json" for table in SSAE_LATENTS],
    *[f"{folder}/provenance.json" for folder in VOTED_POOLS + (["results/voting"] if VOTED_POOLS else [])],
    *[f"{folder}/provenance.json" for folder in N2G_MINED + STEP_N2G_FOLDERS],
    *[f"{cell}/followed.provenance.json" for cell in N2G_CELLS],
    *["results/n2g/provenance.json" for table in N2G_TABLES[:1]],
]


rule make_report:
    input:
        **{table: ancient(f"results/drift/{table}.parquet") for table in TABLES if table != "contrasts"},
        **{table: ancient(f"results/drift/{table}.parquet") for table in SPLICE_TABLES + SOLVING_TABLES + CAUSAL_TABLES},
        **{table: ancient([f"results/drift/{table}.parquet"]) for table in JOINT_TABLES},
        **{table: ancient(f"results/drift/{table}.parquet") for table in SSAE_TABLES + SSAE_LATENTS},
        **{table: ancient(f"results/probes/{table}.parquet") for table in PROBE_TABLES},
        **{table: ancient(f"results/voting/{table}.parquet") for table in VOTING_TABLES[1:4] if VOTED_POOLS},
        **{table: ancient(f"results/n2g/{table}.parquet") for table in N2G_TABLES},
        probed=["results/probes/manifest.json"] if PROBE_TABLES else [],
        votes=["results/voting/manifest.json"] if VOTED_POOLS else [],
        ssaes=[f"{folder}/manifest.json" for folder in SSAE_FOLDERS],
        ssae_histories=ancient([f"{folder}/history.csv" for folder in SSAE_FOLDERS]),
        n2g_graphs=ancient([f"{folder}/graphs" for folder in N2G_MINED] + [f"{cell}/changes" for cell in N2G_CELLS]),
        n2g_tables=["results/n2g/manifest.json"] if N2G_TABLES else [],
        ssae_tables=["results/ssae/tables.json"] if SSAE_TABLES else [],
        ssae_latent_tables=["results/ssae/latents.json"] if SSAE_LATENTS else [],
        intervened=INTERVENED,
        drift="results/drift/manifest.json",
        joint=[f"results/drift/{table}.json" for table in JOINT_TABLES],
        problems="results/problems/manifest.json",
        policies=[policy_files(run, stage)["policy"] for run, stage in every_policy()],
        curves=[f"{folder}/curve.csv" for folder in HOPS] if TRAINED else [],
        warmup_curve=["results/policies/shared/base/curve.csv"] if TRAINED else [],
        greedy=[f"{folder}/manifest.json" for folder in GREEDY],
        greedy_traces=ancient([f"{folder}/traces.parquet" for folder in GREEDY]),
        traces=[f"{folder}/manifest.json" for folder in SAMPLED if folder not in GREEDY],
        shards=EVERY_SHARD,
        saes=[f"{folder}/manifest.json" for folder in EVERY_SAE],
        histories=ancient([f"{folder}/history.csv" for folder in EVERY_SAE]),
        provenances=ancient(PROVENANCES),
    output:
        report="results/report/report.html",
        figures=directory("results/report/figures"),
        summary="results/report/summary.json",
        provenance="results/report/provenance.json",
    log:
        "results/logs/make_report.log",
    benchmark:
        "results/benchmarks/make_report.tsv"
    conda:
        "../envs/report.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(2000),
        runtime=30,
        torch_threads=1,
    params:
        cfg={
            "drift": {name: STUDY.drift.params()[name] for name in ("confidence", "replicates", "seed")},
            "report": STUDY.report.params(),
            "study": STUDY.described(),
        },
        code=code("workflow/report/make_report.py"),
    script:
        "../workflow/report/make_report.py"


rule report:
    input:
        "results/report/report.html",
