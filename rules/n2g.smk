"""Phase n2g: token patterns that explain single latents (Neuron2Graph), scored on held-out rows and followed from stage to stage.

in:  policies, stores, SAEs of the chain real, the latents that drift measured
out: results/n2g/{run}/{text}/{kind}/seed_{seed}/layer_{layer}/{stage}/{graphs.json,latents.parquet,scores.parquet,graphs/},
     …/layer_{layer}/{transfer.parquet,paths.parquet,changes/}
"""

N2G_CELL = "results/n2g/{run}/{text}/{kind}/seed_{seed}/layer_{layer}"
N2G = f"{N2G_CELL}/{{stage}}"
N2G_SETTINGS = {name: value for name, value in STUDY.n2g.params().items() if name not in ("stages", "steps", "labels")}
BOOTSTRAP = {name: STUDY.drift.params()[name] for name in ("confidence", "replicates", "seed")}


def cell_of(wildcards, stage):
    """Held-out shards and the SAE of `real` of one stage."""
    w = wildcards
    shards, bulk = shard_files(w.run, w.text, stage, "heldout", [w.layer])
    return shards, bulk, sae_folder(w.run, w.text, w.kind, "real", w.seed, stage, w.layer)


def mine_inputs(wildcards):
    """Rows of a hop and held-out rows of one stage, its policy and SAE, and what drift tells of its latents."""
    w = wildcards
    mined, mined_bulk = shard_files(w.run, w.text, w.stage, STUDY.hop_part(STUDY.stage(w.run, w.stage)), [w.layer])
    held_out, held_out_bulk, sae = cell_of(w, w.stage)
    changes = {"changes": f"{CELL}/latents.parquet".format(**w)} if isinstance(STUDY.n2g.latents, int) else {}
    return {
        **policy_files(w.run, w.stage),
        "mined": mined,
        "mined_bulk": mined_bulk,
        "held_out": held_out,
        "held_out_bulk": held_out_bulk,
        "sae": f"{sae}/manifest.json",
        "sae_bulk": ancient(f"{sae}/sae.safetensors"),
        **{name: ancient(path) for name, path in changes.items()},
        **({"drift_cell": f"{CELL}/manifest.json".format(**w)} if changes else {}),
    }


def follow_inputs(wildcards):
    """Graphs, held-out rows and SAEs of every mined stage."""
    w = wildcards
    stages = STUDY.n2g_stages(w.run)
    every = [cell_of(w, stage) for stage in stages]
    base = sae_folder(w.run, w.text, w.kind, "real", w.seed, "base", w.layer)
    return {
        **policy_files(w.run, "base"),
        "graphs": [f"{N2G_CELL}/{stage}/manifest.json".format(**w) for stage in stages],
        "graphs_bulk": ancient([f"{N2G_CELL}/{stage}/graphs.json".format(**w) for stage in stages]),
        "held_out": [path for shards, _, _ in every for path in shards],
        "held_out_bulk": [path for _, bulk, _ in every for path in bulk],
        "saes": [f"{sae}/manifest.json" for _, _, sae in every],
        "base_sae": f"{base}/manifest.json",
        "saes_bulk": ancient([f"{folder}/sae.safetensors" for folder in dict.fromkeys([*(sae for _, _, sae in every), base])]),
    }


rule mine_n2g:
    input:
        unpack(mine_inputs),
    output:
        graphs=f"{N2G}/graphs.json",
        latents=f"{N2G}/latents.parquet",
        scores=f"{N2G}/scores.parquet",
        drawn=directory(f"{N2G}/graphs"),
        manifest=f"{N2G}/manifest.json",
        provenance=f"{N2G}/provenance.json",
    log:
        "results/logs/mine_n2g/{run}/{text}/{kind}/seed_{seed}/layer_{layer}/{stage}.log",
    benchmark:
        "results/benchmarks/mine_n2g/{run}/{text}/{kind}/seed_{seed}/layer_{layer}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=lambda wildcards, attempt: splice_memory(wildcards, attempt),
        runtime=480,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=lambda wildcards: {
            "bootstrap": BOOTSTRAP,
            "last_stage": stage_names(wildcards.run)[-1],
            "machine": {"batch_tokens": STUDY.activations.batch_tokens, **MACHINE},
            "n2g": N2G_SETTINGS,
            "rows": ROW_FILTER,
        },
        code=code("workflow/n2g/mine_n2g.py"),
    script:
        "../workflow/n2g/mine_n2g.py"


rule follow_n2g:
    input:
        unpack(follow_inputs),
    output:
        transfer=f"{N2G_CELL}/transfer.parquet",
        paths=f"{N2G_CELL}/paths.parquet",
        drawn=directory(f"{N2G_CELL}/changes"),
        manifest=f"{N2G_CELL}/followed.json",
        provenance=f"{N2G_CELL}/followed.provenance.json",
    log:
        "results/logs/follow_n2g/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/follow_n2g/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(2500),
        runtime=120,
        torch_threads=1,
    params:
        cfg=lambda wildcards: {
            "bootstrap": BOOTSTRAP,
            "n2g": N2G_SETTINGS,
            "rows": ROW_FILTER,
            "stages": STUDY.n2g_stages(wildcards.run),
        },
        code=code("workflow/n2g/follow_n2g.py"),
    script:
        "../workflow/n2g/follow_n2g.py"
