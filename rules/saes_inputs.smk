"""Phase saes: where SAEs lie, and what the training of each reads, is told and takes."""


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


def every_sae(run, kind, seed, layer):
    """Folders of all SAEs of one run, kind, seed and layer, `base` once."""
    cells = [(chain, stage) for chain in STUDY.design.chains for stage in stage_names(run)]
    return list(dict.fromkeys(sae_folder(run, STUDY.saes.text, kind, chain, seed, stage, layer) for chain, stage in cells))
