"""Phase saes: one sparse autoencoder per (run, text, kind, chain, seed, stage, layer), warm-started along its chain.

One rule or the other trains them, to the same bytes: train_sae each by itself, train_kinds (saes.together) all kinds of a cell.

in:  shards of a policy on the training text, the SAE of the stage before
out: results/saes/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}/{sae.safetensors,history.csv,manifest.json}
"""

CELL_OF_SAE = "{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}"
KINDS = sorted(STUDY.design.kinds)


if STUDY.saes.together:

    CELL_OF_KINDS = CELL_OF_SAE.replace("{kind}/", "")

    rule train_kinds:
        input:
            unpack(sae_rows),
            unpack(lambda wildcards: warm_starts(wildcards, KINDS)),
            unpack(lambda wildcards: budget(wildcards, KINDS)),
        output:
            sae=expand(f"results/saes/{CELL_OF_SAE}/sae.safetensors", kind=KINDS, allow_missing=True),
            history=expand(f"results/saes/{CELL_OF_SAE}/history.csv", kind=KINDS, allow_missing=True),
            manifest=expand(f"results/saes/{CELL_OF_SAE}/manifest.json", kind=KINDS, allow_missing=True),
            provenance=expand(f"results/saes/{CELL_OF_SAE}/provenance.json", kind=KINDS, allow_missing=True),
        log:
            f"results/logs/train_kinds/{CELL_OF_KINDS}.log",
        benchmark:
            f"results/benchmarks/train_kinds/{CELL_OF_KINDS}.tsv"
        conda:
            "../envs/numerics.yaml"
        threads: THREADS
        resources:
            mem_mb=sae_memory(KINDS),
            runtime=lambda wildcards: sae_minutes(wildcards) * len(KINDS),
            gpu=GPU,
            torch_threads=STUDY.compute.threads,
        params:
            cfg=lambda wildcards: {
                **sae_settings(wildcards),
                "saes": {kind: settings_of(wildcards, kind).params() for kind in KINDS},
            },
            code=code("workflow/saes/train_kinds.py"),
        script:
            "../workflow/saes/train_kinds.py"

else:

    rule train_sae:
        input:
            unpack(sae_rows),
            unpack(lambda wildcards: {name: files[0] for name, files in warm_starts(wildcards, [wildcards.kind]).items()}),
            unpack(lambda wildcards: budget(wildcards, [wildcards.kind])),
        output:
            sae=f"results/saes/{CELL_OF_SAE}/sae.safetensors",
            history=f"results/saes/{CELL_OF_SAE}/history.csv",
            manifest=f"results/saes/{CELL_OF_SAE}/manifest.json",
            provenance=f"results/saes/{CELL_OF_SAE}/provenance.json",
        log:
            f"results/logs/train_sae/{CELL_OF_SAE}.log",
        benchmark:
            f"results/benchmarks/train_sae/{CELL_OF_SAE}.tsv"
        conda:
            "../envs/numerics.yaml"
        threads: THREADS
        resources:
            mem_mb=sae_memory(None),
            runtime=sae_minutes,
            gpu=GPU,
            torch_threads=STUDY.compute.threads,
        params:
            cfg=lambda wildcards: {**sae_settings(wildcards), "saes": settings_of(wildcards, wildcards.kind).params()},
            code=code("workflow/saes/train_sae.py"),
        script:
            "../workflow/saes/train_sae.py"


EVERY_SAE = sorted(
    {
        folder
        for run in STUDY.runs
        for kind in STUDY.design.kinds
        for seed in STUDY.design.seeds
        for layer in LAYERS
        for folder in every_sae(run, kind, seed, layer)
    }
)


rule saes:
    input:
        [f"{folder}/manifest.json" for folder in EVERY_SAE],
