"""Phase probes: probes of every stage on the steps of every other, and the tables of the phase.

in:  fits, scores, labels and features of all pools
out: results/probes/transfers/{run}/layer_{layer}/transfer.parquet,
     results/probes/{probes,probe_contrasts,probe_transfer,probe_controls}.{parquet,csv}
"""

PROBE_TABLES = ["probes", "probe_contrasts", "probe_transfer", "probe_controls"] if POOLS else []
TRANSFERRED = [
    PROBE_TRANSFERS.format(run=run, layer=layer)
    for run in probed_runs(STUDY)
    for layer in LAYERS
    if STUDY.probes.fits.transfer and len(pool_stages(STUDY, run)) > 1
]


def transferred_inputs(wildcards):
    """Labels, features and weights of every stage of a run, in their order."""
    stages = pool_stages(STUDY, wildcards.run)
    at = [{"run": STUDY.home(wildcards.run, POOL, stage), "stage": stage} for stage in stages]
    labels = [LABELLED.format(**one) for one in at]
    features = [FEATURES.format(**one, layer=wildcards.layer) for one in at]
    fits = [FITS.format(**one, place=f"layer_{wildcards.layer}") for one in at]
    return {
        "manifests": [f"{folder}/manifest.json" for folder in labels + features + fits],
        "labels": ancient([f"{folder}/labels.parquet" for folder in labels]),
        "features": ancient([f"{folder}/features.h5" for folder in features]),
        "weights": ancient([f"{folder}/weights.parquet" for folder in fits]),
    }


rule transfer_probes:
    input:
        unpack(transferred_inputs),
    output:
        transfer=f"{PROBE_TRANSFERS}/transfer.parquet",
        manifest=f"{PROBE_TRANSFERS}/manifest.json",
        provenance=f"{PROBE_TRANSFERS}/provenance.json",
    log:
        "results/logs/transfer_probes/{run}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/transfer_probes/{run}/layer_{layer}.tsv"
    conda:
        "../envs/probes.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(3000),
        runtime=120,
        torch_threads=1,
    params:
        cfg=lambda wildcards: {
            "bootstrap": PROBE_BOOTSTRAP,
            "fits": PROBE_FITS,
            "stages": pool_stages(STUDY, wildcards.run),
        },
        code=code("workflow/probes/transfer_probes.py"),
    script:
        "../workflow/probes/transfer_probes.py"


PROBE_FIT_FOLDERS = [FITS.format(**at._asdict(), place=place) for at in POOLS for place in PLACES]
PROBE_SCORE_FOLDERS = [PROBE_SCORES.format(**at._asdict()) for at in POOLS]


rule probe_tables:
    input:
        fits=[f"{folder}/manifest.json" for folder in PROBE_FIT_FOLDERS],
        compared=[f"{folder}/manifest.json" for folder in PROBE_SCORE_FOLDERS],
        transfers=[f"{folder}/manifest.json" for folder in TRANSFERRED],
        bulk=ancient(
            [f"{folder}/{name}.parquet" for folder in PROBE_FIT_FOLDERS for name in ("probes", "controls")]
            + [f"{folder}/contrasts.parquet" for folder in PROBE_SCORE_FOLDERS]
            + [f"{folder}/transfer.parquet" for folder in TRANSFERRED]
        ),
    output:
        **{table: f"results/probes/{table}.parquet" for table in PROBE_TABLES},
        **{f"{table}_csv": f"results/probes/{table}.csv" for table in PROBE_TABLES},
        manifest="results/probes/manifest.json",
        provenance="results/probes/provenance.json",
    log:
        "results/logs/probe_tables.log",
    benchmark:
        "results/benchmarks/probe_tables.tsv"
    conda:
        "../envs/probes.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=30,
        torch_threads=1,
    params:
        cfg={"bootstrap": PROBE_BOOTSTRAP},
        code=code("workflow/probes/probe_tables.py"),
    script:
        "../workflow/probes/probe_tables.py"


rule probes:
    input:
        ["results/probes/manifest.json"] if POOLS else [],
