"""Phase probes: what of the steps of a pool of solutions probes may read.

in:  results/traces/{run}/pool/{stage}, a policy, SAEs
out: results/probes/features/{run}/pool/{stage}/layer_{layer}/features.h5
"""

FROZEN_DECODER = "results/probes/frozen_decoder/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}"


def frozen_settings(wildcards):
    """Settings of an SAE whose decoder stays random, trained as that of base is, on rows of the stage."""
    settings = STUDY.saes.settings(wildcards.kind, int(wildcards.layer), 0).params()
    return {**sae_settings(wildcards), "saes": {**settings, "frozen_decoder": True}}


rule train_frozen_decoder:
    input:
        unpack(sae_rows),
    output:
        sae=f"{FROZEN_DECODER}/sae.safetensors",
        history=f"{FROZEN_DECODER}/history.csv",
        manifest=f"{FROZEN_DECODER}/manifest.json",
        provenance=f"{FROZEN_DECODER}/provenance.json",
    log:
        "results/logs/train_frozen_decoder/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/train_frozen_decoder/{run}/{text}/{kind}/{chain}/seed_{seed}/{stage}/layer_{layer}.tsv"
    wildcard_constraints:
        chain="frozen",
    conda:
        "../envs/numerics.yaml"
    threads: THREADS
    resources:
        mem_mb=sae_memory(None),
        runtime=240,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=frozen_settings,
        code=code("workflow/saes/train_sae.py"),
    script:
        "../workflow/saes/train_sae.py"


FEATURED = "results/probes/features/{run}/pool/{stage}"


def pool_saes(wildcards):
    """Folders of the SAEs of a stage, with frozen decoders where they are asked for, and behind base of those of base."""
    run = STUDY.runs[0] if wildcards.run == SHARED else wildcards.run
    cells = [(kind, seed, layer) for layer in LAYERS for kind in STUDY.design.kinds for seed in STUDY.design.seeds]
    stages = dict.fromkeys([wildcards.stage, "base"])
    found = [sae_folder(run, STUDY.saes.text, kind, "real", seed, stage, layer) for kind, seed, layer in cells for stage in stages]
    if STUDY.probes.features.frozen_decoder:
        home = {"run": STUDY.home(run, STUDY.saes.text, wildcards.stage), "text": STUDY.saes.text, "stage": wildcards.stage}
        named = [{"kind": kind, "seed": seed, "layer": layer} for kind, seed, layer in cells]
        found += [FROZEN_DECODER.format(**home, chain="frozen", **one) for one in named]
    return found


def feature_inputs(wildcards):
    """Solutions, policy, its held-out rows, and SAEs."""
    run = STUDY.runs[0] if wildcards.run == SHARED else wildcards.run
    stores, bulk = shard_files(run, STUDY.saes.text, wildcards.stage, "heldout")
    folders = pool_saes(wildcards)
    return {
        **pool_files(wildcards),
        "stores": stores,
        "stores_bulk": bulk,
        "saes": [f"{folder}/manifest.json" for folder in folders],
        "saes_bulk": ancient([f"{folder}/sae.safetensors" for folder in folders]),
    }


def feature_memory(wildcards, attempt):
    """Megabytes: the policy, all SAEs with what they started from, rows and codes of one pass, features of one block."""
    d_sae = max(STUDY.saes.settings(kind, layer, 0).expansion for kind in STUDY.design.kinds for layer in LAYERS) * SHAPE.d_model
    coders = 2 * len(pool_saes(wildcards)) + len(LAYERS)
    numbers = SHAPE.parameters + 3 * coders * d_sae * SHAPE.d_model + 6 * STUDY.activations.batch_tokens * d_sae
    return attempt * (2500 + 4 * numbers // 10**6)


rule step_features:
    input:
        unpack(feature_inputs),
        **PROBLEMS,
    output:
        features=[f"{FEATURED}/layer_{layer}/features.h5" for layer in LAYERS],
        manifests=[f"{FEATURED}/layer_{layer}/manifest.json" for layer in LAYERS],
        provenance=f"{FEATURED}/provenance.json",
    log:
        "results/logs/step_features/{run}/{stage}.log",
    benchmark:
        "results/benchmarks/step_features/{run}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=feature_memory,
        runtime=480,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg={
            "batch_tokens": STUDY.activations.batch_tokens,
            "compute": {**MACHINE, "backend": STUDY.compute.backend},
            "features": {name: value for name, value in STUDY.probes.features.params().items() if name != "frozen_decoder"},
            "layers": LAYERS,
            "rows": ROW_FILTER,
        },
        code=code("workflow/probes/step_features.py", "lm"),
    script:
        "../workflow/probes/step_features.py"
