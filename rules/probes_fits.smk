"""Phase probes: what the features of reasoning steps tell of them, by probes fitted on training problems alone.

in:  labels and features of the steps of every pool, codes of step-level SAEs
out: results/probes/fits/{run}/pool/{stage}/{place}/…, results/probes/scores/{run}/{stage}/{scores,contrasts}.parquet,
     results/probes/transfers/{run}/layer_{layer}/transfer.parquet
"""

FEATURES = "results/probes/features/{run}/pool/{stage}/layer_{layer}"
FITS = "results/probes/fits/{run}/pool/{stage}/{place}"
PROBE_SCORES = "results/probes/scores/{run}/{stage}"
PROBE_TRANSFERS = "results/probes/transfers/{run}/layer_{layer}"
NO_LAYER = "no_layer"
PLACES = [NO_LAYER, *[f"layer_{layer}" for layer in LAYERS]]
POOLS = every_pool(STUDY)
PROBE_BOOTSTRAP = TABLE_SETTINGS["bootstrap"]
PROBE_FITS = STUDY.probes.fits.params()


def coded_pool(run, stage):
    """Folder of the codes of a pool's steps by feature set, for each step-level SAE that may read them."""
    return {
        f"ssae.{at.stage}.{at.chain}.seed_{at.seed}": STEP_CODES.format(**at._asdict(), of_run=run, text=POOL, of_stage=stage)
        for at in EVERY_SSAE
        if at.run in (run, SHARED) and measured_steps(STUDY, at.run)
    }


def fitted_inputs(wildcards):
    """Labels, features of one layer and, for the sets that are of none, codes of step-level SAEs."""
    run, stage, place = wildcards.run, wildcards.stage, wildcards.place
    labels = LABELLED.format(run=run, stage=stage)
    layer = LAYERS[0] if place == NO_LAYER else place.removeprefix("layer_")
    features = FEATURES.format(run=run, stage=stage, layer=layer)
    codes = coded_pool(run, stage).values() if place == NO_LAYER else []
    return {
        "labels_manifest": f"{labels}/manifest.json",
        "labels": ancient(f"{labels}/labels.parquet"),
        "features_manifest": f"{features}/manifest.json",
        "features": ancient(f"{features}/features.h5"),
        "codes_manifests": [f"{folder}/manifest.json" for folder in codes],
        "codes": ancient([f"{folder}/codes.parquet" for folder in codes]),
    }


rule fit_probes:
    input:
        unpack(fitted_inputs),
    output:
        **{name: f"{FITS}/{name}.parquet" for name in ("probes", "controls", "held_out", "weights")},
        manifest=f"{FITS}/manifest.json",
        provenance=f"{FITS}/provenance.json",
    log:
        "results/logs/fit_probes/{run}/{stage}/{place}.log",
    benchmark:
        "results/benchmarks/fit_probes/{run}/{stage}/{place}.tsv"
    wildcard_constraints:
        place=r"no_layer|layer_\d+",
    conda:
        "../envs/probes.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(3000),
        runtime=480,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=lambda wildcards: {
            "bootstrap": PROBE_BOOTSTRAP,
            "codes": list(coded_pool(wildcards.run, wildcards.stage)) if wildcards.place == NO_LAYER else [],
            "fits": PROBE_FITS,
        },
        code=code("workflow/probes/fit_probes.py"),
    script:
        "../workflow/probes/fit_probes.py"


def fits_of(wildcards):
    """Fits of all places of one stage."""
    return [FITS.format(run=wildcards.run, stage=wildcards.stage, place=place) for place in PLACES]


rule compare_probes:
    input:
        manifests=lambda wildcards: [f"{folder}/manifest.json" for folder in fits_of(wildcards)],
        probes=ancient(lambda wildcards: [f"{folder}/probes.parquet" for folder in fits_of(wildcards)]),
        held_out=ancient(lambda wildcards: [f"{folder}/held_out.parquet" for folder in fits_of(wildcards)]),
    output:
        scores=f"{PROBE_SCORES}/scores.parquet",
        contrasts=f"{PROBE_SCORES}/contrasts.parquet",
        manifest=f"{PROBE_SCORES}/manifest.json",
        provenance=f"{PROBE_SCORES}/provenance.json",
    log:
        "results/logs/compare_probes/{run}/{stage}.log",
    benchmark:
        "results/benchmarks/compare_probes/{run}/{stage}.tsv"
    conda:
        "../envs/probes.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(2000),
        runtime=60,
        torch_threads=1,
    params:
        cfg={"bootstrap": PROBE_BOOTSTRAP},
        code=code("workflow/probes/compare_probes.py"),
    script:
        "../workflow/probes/compare_probes.py"
