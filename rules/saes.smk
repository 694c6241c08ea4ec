"""Phase saes: one sparse autoencoder per (run, text, kind, chain, seed, stage, layer), warm-started along its chain.

One rule or the other trains them, to the same bytes: train_sae each by itself, train_kinds (saes.together) all kinds of a cell.

in:  shards of a policy on the training text, the SAE of the stage before
out: results/saes/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}/{sae.safetensors,history.csv,manifest.json}
"""


def sae_folder(run, text, kind, chain, seed, stage, layer):
    """Where an SAE lies; that of `base` is shared by all chains and belongs to `real`."""
    home = STUDY.home(run, text, stage)
    chain = "real" if stage == "base" else chain
    return f"results/saes/{home}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}"


def sae_rows(wildcards):
    """Rows that train an SAE and held-out rows that select its epoch."""
    w = wildcards
    source = STUDY.source(w.chain, w.stage)
    train, train_bulk = shard_files(w.run, w.text, source, STUDY.hop_part(STUDY.stage(w.run, w.stage)), [w.layer])
    val, val_bulk = shard_files(w.run, w.text, source, "heldout", [w.layer])
    return {"train_manifests": train, "train_bulk": train_bulk, "val_manifests": val, "val_bulk": val_bulk}


def warm_starts(wildcards, kinds):
    """The SAEs that those of these kinds start from; none where they start fresh."""
    w = wildcards
    parent = STUDY.parent(w.run, w.chain, w.stage)
    if not parent:
        return {}
    chain, stage = parent
    folders = [sae_folder(w.run, w.text, kind, chain, w.seed, stage, w.layer) for kind in kinds]
    return {
        "warm": [f"{folder}/manifest.json" for folder in folders],
        "warm_sae": ancient([f"{folder}/sae.safetensors" for folder in folders]),
    }


def budget(wildcards, kinds):
    """The SAEs of `real` whose updates together are those of a fresh SAE behind `base`, stage by stage, kinds in order."""
    w = wildcards
    if w.chain != "cold":
        return {}
    stages = STUDY.stages(w.run)[: STUDY.stage(w.run, w.stage).hop + 1]
    folders = [sae_folder(w.run, w.text, kind, "real", w.seed, stage.name, w.layer) for stage in stages for kind in kinds]
    return {"budget": [f"{folder}/manifest.json" for folder in folders]}


def sae_settings(wildcards):
    """Settings of one hop; those of the SAEs come beside them."""
    stage = STUDY.stage(wildcards.run, wildcards.stage)
    return {
        "compute": {"backend": STUDY.compute.backend, "device": STUDY.compute.device},
        "hop": stage.hop,
        "part": STUDY.hop_part(stage),
        "rows": ROW_FILTER,
        "source_stage": STUDY.source(wildcards.chain, wildcards.stage),
    }


def settings_of(wildcards, kind):
    """Settings of the SAE of one kind; a fresh one is trained with those of `base`."""
    hop = 0 if wildcards.chain == "cold" else STUDY.stage(wildcards.run, wildcards.stage).hop
    return STUDY.saes.settings(kind, int(wildcards.layer), hop)


def sae_minutes(wildcards):
    """Minutes of one training at most; a fresh SAE behind `base` is trained for all hops before it, too."""
    return 240 * (1 + (STUDY.stage(wildcards.run, wildcards.stage).hop if wildcards.chain == "cold" else 0))


def sae_memory(kinds):
    """Megabytes of one training: buffers of rows; weights, moments and gradients of each SAE; its numbers per row and latent."""

    def megabytes(wildcards, attempt):
        every = [(kind, settings_of(wildcards, kind)) for kind in kinds or [wildcards.kind]]
        buffers = {(settings.batch, settings.buffer_rows) for _, settings in every}
        numbers = sum(rows for _, rows in buffers) * SHAPE.d_model
        for kind, settings in every:
            d_sae = settings.expansion * SHAPE.d_model
            numbers += (18 if settings.warm_moments else 12) * d_sae * SHAPE.d_model
            numbers += (10 if kind in PRICED else 4) * settings.batch * d_sae
        return attempt * (1000 + 4 * numbers // 10**6)

    return megabytes


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


def every_sae(run, kind, seed, layer):
    """Folders of all SAEs of one run, kind, seed and layer, `base` once."""
    cells = [(chain, stage) for chain in STUDY.design.chains for stage in stage_names(run)]
    return list(dict.fromkeys(sae_folder(run, STUDY.saes.text, kind, chain, seed, stage, layer) for chain, stage in cells))


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
