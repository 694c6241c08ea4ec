"""Phase ssae: step-level SAEs, one sparse code for a whole reasoning step; trained, or taken as they are.

in:  steps, the language model of a stage, the SSAE of the stage before
out: results/ssae/models/{run}/{chain}/seed_{seed}/{stage}/{step_sae.safetensors,base/,history.csv,manifest.json}
"""

STEP_SAE = "results/ssae/models/{run}/{chain}/seed_{seed}/{stage}"
OF_DESIGN = ("chains", "preset", "runs", "seeds", "stages")
SSAE_SETTINGS = {name: value for name, value in STUDY.ssae.params().items() if name not in OF_DESIGN}


def ssae_at(wildcards):
    """The SSAE that a job's wildcards name."""
    return SsaeAt(wildcards.run, wildcards.chain, int(wildcards.seed), wildcards.stage)


def steps_inputs(at):
    """Steps that an SSAE is trained on, and those held out where they are in a file of their own."""
    folders = {"steps": STEPS_OF_TRACES.format(**steps_of(STUDY, at)._asdict())}
    if GIVEN_FILES:
        folders = {"steps" if part == "train" else part: STEPS_OF_FILES.format(part=part) for part in GIVEN_FILES}
    manifests = {name: f"{folder}/manifest.json" for name, folder in folders.items()}
    return manifests | {f"{name}_bulk": ancient(f"{folder}/steps.h5") for name, folder in folders.items()}


def ssae_inputs(wildcards):
    """Steps, language model, and the SSAE from which training goes on."""
    at = ssae_at(wildcards)
    parent, given = ssae_parent(STUDY, at), given_file(STUDY, at)
    warm = STEP_SAE.format(**parent._asdict()) if parent else None
    return {
        **(steps_inputs(at) if is_trained(STUDY, at) else {}),
        **policy_files(wildcards.run, wildcards.stage),
        **({"given": given} if given else {}),
        **({"warm": f"{warm}/manifest.json", "warm_bulk": ancient(f"{warm}/step_sae.safetensors")} if warm else {}),
    }


def ssae_memory(wildcards, attempt):
    """Megabytes: weights, gradients and moments of two language models, and what one micro-batch leaves behind."""
    share = (STUDY.ssae.blocks or SHAPE.layers) / SHAPE.layers
    trained = 2 * SHAPE.parameters * (share + (1 - share) * 0.3)
    return attempt * int(3000 + (16 if STUDY.ssae.source != "given" else 4) * trained / 10**6)


rule train_ssae:
    input:
        unpack(ssae_inputs),
    output:
        ssae=f"{STEP_SAE}/step_sae.safetensors",
        base=directory(f"{STEP_SAE}/base"),
        history=f"{STEP_SAE}/history.csv",
        manifest=f"{STEP_SAE}/manifest.json",
        provenance=f"{STEP_SAE}/provenance.json",
    log:
        "results/logs/train_ssae/{run}/{chain}/seed_{seed}/{stage}.log",
    benchmark:
        "results/benchmarks/train_ssae/{run}/{chain}/seed_{seed}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=ssae_memory,
        runtime=2880,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg={"device": MACHINE["device"], "ssae": SSAE_SETTINGS},
        code=code("workflow/ssae/train_ssae.py"),
    script:
        "../workflow/ssae/train_ssae.py"
