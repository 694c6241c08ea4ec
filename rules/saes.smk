"""Phase saes: one sparse autoencoder per (run, text, kind, chain, seed, stage, layer), warm-started along its chain.

in:  shards of a policy on the training text, the SAE of the stage before
out: results/saes/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}/{sae.safetensors,history.csv,manifest.json}
"""


def sae_folder(run, text, kind, chain, seed, stage, layer):
    """Where an SAE lies; that of `base` is shared by all chains and belongs to `real`."""
    home = STUDY.home(run, text, stage)
    chain = "real" if stage == "base" else chain
    return f"results/saes/{home}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}"


def sae_inputs(wildcards):
    """Rows that train the SAE, held-out rows that select its epoch, and the SAE that it starts from."""
    w = wildcards
    source = STUDY.source(w.chain, w.stage)
    stage = STUDY.stage(w.run, w.stage)
    train, train_bulk = shard_files(w.run, w.text, source, STUDY.hop_part(stage), [w.layer])
    val, val_bulk = shard_files(w.run, w.text, source, "heldout", [w.layer])
    inputs = {"train_manifests": train, "train_bulk": train_bulk, "val_manifests": val, "val_bulk": val_bulk}
    if stage.hop:
        warm = sae_folder(w.run, w.text, w.kind, w.chain, w.seed, STUDY.before(w.run, w.stage), w.layer)
        inputs |= {"warm": f"{warm}/manifest.json", "warm_sae": ancient(f"{warm}/sae.safetensors")}
    return inputs


def sae_settings(wildcards):
    """Settings of one SAE on one hop."""
    stage = STUDY.stage(wildcards.run, wildcards.stage)
    return {
        "compute": {"device": STUDY.compute.device},
        "hop": stage.hop,
        "part": STUDY.hop_part(stage),
        "rows": ROW_FILTER,
        "saes": STUDY.saes.settings(int(wildcards.layer), stage.hop).params(),
        "source_stage": STUDY.source(wildcards.chain, wildcards.stage),
    }


def sae_memory(wildcards, attempt):
    """Megabytes of one training: the buffer of rows, and weights, moments and gradients of the SAE."""
    settings = STUDY.saes.settings(int(wildcards.layer), 0)
    weights = 2 * settings.expansion * SHAPE.d_model**2
    numbers = settings.buffer_rows * SHAPE.d_model + 6 * weights + 4 * settings.batch * settings.expansion * SHAPE.d_model
    return attempt * (1000 + 4 * numbers // 10**6)


rule train_sae:
    input:
        unpack(sae_inputs),
    output:
        sae="results/saes/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}/sae.safetensors",
        history="results/saes/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}/history.csv",
        manifest="results/saes/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}/manifest.json",
        provenance="results/saes/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}/provenance.json",
    log:
        "results/logs/train_sae/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/train_sae/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: THREADS
    resources:
        mem_mb=sae_memory,
        runtime=240,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=sae_settings,
        code=code("workflow/saes/train_sae.py"),
    script:
        "../workflow/saes/train_sae.py"


def every_sae(run, kind, seed, layer):
    """Folders of all SAEs of one run, kind, seed and layer, `base` once."""
    cells = [(chain, stage) for chain in STUDY.saes.chains for stage in stage_names(run)]
    return list(dict.fromkeys(sae_folder(run, STUDY.saes.text, kind, chain, seed, stage, layer) for chain, stage in cells))


EVERY_SAE = sorted(
    {
        folder
        for run in STUDY.runs
        for kind in STUDY.saes.kinds
        for seed in STUDY.saes.seeds
        for layer in LAYERS
        for folder in every_sae(run, kind, seed, layer)
    }
)


rule saes:
    input:
        [f"{folder}/manifest.json" for folder in EVERY_SAE],
