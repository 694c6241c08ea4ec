"""Phase ssae: what step-level SAEs rebuild of held-out steps of every stage, and the tables of it.

in:  step-level SAEs, steps of all stages
out: results/ssae/measured/…/sums.parquet, results/drift/{ssae_transfer,ssae_decomposition,ssae_latents}.{parquet,csv}
"""

MEASURED_SSAE = "results/ssae/measured/{run}/{chain}/seed_{seed}/{stage}"
EVERY_SSAE = every_ssae(STUDY)
SSAE_FOLDERS = [STEP_SAE.format(**at._asdict()) for at in EVERY_SSAE]
SSAE_MEASURED = [MEASURED_SSAE.format(**at._asdict()) for at in EVERY_SSAE if measured_steps(STUDY, at.run)]
SSAE_TABLES = ["ssae_transfer", "ssae_decomposition"] if SSAE_MEASURED else []
SSAE_LATENTS = ["ssae_latents"] if compares_step_latents(STUDY) else []
LATENT_TESTS = ("confidence", "fdr", "min_firings", "min_prompts", "seed", "sign_flips", "stability_margin")


def measured_inputs(wildcards):
    """An SSAE and the steps on which it is measured."""
    folder = STEP_SAE.format(**ssae_at(wildcards)._asdict())
    steps = [STEPS_OF_TRACES.format(**at._asdict()) for at in measured_steps(STUDY, wildcards.run)]
    return {
        "ssae": f"{folder}/manifest.json",
        "ssae_bulk": ancient(f"{folder}/step_sae.safetensors"),
        "steps": [f"{each}/manifest.json" for each in steps],
        "steps_bulk": ancient([f"{each}/steps.h5" for each in steps]),
    }


rule measure_ssae:
    input:
        unpack(measured_inputs),
    output:
        sums=f"{MEASURED_SSAE}/sums.parquet",
        firings=f"{MEASURED_SSAE}/firings.safetensors",
        manifest=f"{MEASURED_SSAE}/manifest.json",
        provenance=f"{MEASURED_SSAE}/provenance.json",
    log:
        "results/logs/measure_ssae/{run}/{chain}/seed_{seed}/{stage}.log",
    benchmark:
        "results/benchmarks/measure_ssae/{run}/{chain}/seed_{seed}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=ssae_memory,
        runtime=240,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=lambda wildcards: {
            "device": MACHINE["device"],
            "steps": [list(at) for at in measured_steps(STUDY, wildcards.run)],
        },
        code=code("workflow/ssae/measure_ssae.py"),
    script:
        "../workflow/ssae/measure_ssae.py"


if SSAE_TABLES:

    rule ssae_tables:
        input:
            measured=[f"{folder}/manifest.json" for folder in SSAE_MEASURED],
            sums=ancient([f"{folder}/sums.parquet" for folder in SSAE_MEASURED]),
        output:
            ssae_transfer="results/drift/ssae_transfer.parquet",
            ssae_transfer_csv="results/drift/ssae_transfer.csv",
            ssae_decomposition="results/drift/ssae_decomposition.parquet",
            ssae_decomposition_csv="results/drift/ssae_decomposition.csv",
            manifest="results/ssae/tables.json",
            provenance="results/ssae/tables.provenance.json",
        log:
            "results/logs/ssae_tables.log",
        benchmark:
            "results/benchmarks/ssae_tables.tsv"
        conda:
            "../envs/numerics.yaml"
        threads: ONE_THREAD
        resources:
            mem_mb=memory(1500),
            runtime=30,
            torch_threads=1,
        params:
            cfg=TABLE_SETTINGS,
            code=code("workflow/drift/ssae_tables.py"),
        script:
            "../workflow/drift/ssae_tables.py"


if SSAE_LATENTS:

    rule ssae_latents:
        input:
            measured=[f"{folder}/manifest.json" for folder in SSAE_MEASURED],
            firings=ancient([f"{folder}/firings.safetensors" for folder in SSAE_MEASURED]),
        output:
            ssae_latents="results/drift/ssae_latents.parquet",
            ssae_latents_csv="results/drift/ssae_latents.csv",
            manifest="results/ssae/latents.json",
            provenance="results/ssae/latents.provenance.json",
        log:
            "results/logs/ssae_latents.log",
        benchmark:
            "results/benchmarks/ssae_latents.tsv"
        conda:
            "../envs/numerics.yaml"
        threads: ONE_THREAD
        resources:
            mem_mb=memory(2000),
            runtime=60,
            torch_threads=1,
        params:
            cfg={
                "drift": {name: STUDY.drift.params()[name] for name in LATENT_TESTS},
                "stages": TABLE_SETTINGS["stages"],
            },
            code=code("workflow/drift/ssae_latents.py"),
        script:
            "../workflow/drift/ssae_latents.py"


rule ssae:
    input:
        [f"{folder}/manifest.json" for folder in SSAE_FOLDERS],
        [f"results/drift/{table}.parquet" for table in SSAE_TABLES + SSAE_LATENTS],
