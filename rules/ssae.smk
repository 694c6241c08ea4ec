"""Phase ssae: step-level SAEs, one sparse code for a whole reasoning step; trained, or taken as they are.

in:  traces or files of solutions, the language model of a stage, the SSAE of the stage before
out: results/ssae/steps/…/steps.h5, results/ssae/models/{run}/{chain}/seed_{seed}/{stage}/{step_sae.safetensors,base/,history.csv,manifest.json}
"""

STEPS_OF_TRACES = "results/ssae/steps/{run}/{text}/{stage}"
STEPS_OF_FILES = "results/ssae/steps/files/{part}"
STEP_SAE = "results/ssae/models/{run}/{chain}/seed_{seed}/{stage}"
GIVEN_FILES = {part: getattr(STUDY.ssae.data, part) for part in ("train", "valid") if getattr(STUDY.ssae.data, part)}
OF_DESIGN = ("chains", "preset", "runs", "seeds", "stages")
SSAE_SETTINGS = {name: value for name, value in STUDY.ssae.params().items() if name not in OF_DESIGN}
STEP_SETTINGS = {
    "base_model": STUDY.ssae.base_model,
    "data": SSAE_SETTINGS["data"],
    "legacy": SSAE_SETTINGS["legacy"],
    "revision": STUDY.ssae.revision,
}
TRACE_SETTINGS = STEP_SETTINGS | {"data": STEP_SETTINGS["data"] | {"format": "traces", "train": None, "valid": None}}


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


rule tokenise_traces:
    input:
        unpack(lambda wildcards: policy_files(SHARED, "base")),
        manifest_of_traces=lambda wildcards: f"{trace_folder(*wildcards)}/manifest.json",
        traces=ancient(lambda wildcards: f"{trace_folder(*wildcards)}/traces.parquet"),
    output:
        steps=f"{STEPS_OF_TRACES}/steps.h5",
        manifest=f"{STEPS_OF_TRACES}/manifest.json",
        provenance=f"{STEPS_OF_TRACES}/provenance.json",
    log:
        "results/logs/tokenise_traces/{run}/{text}/{stage}.log",
    benchmark:
        "results/benchmarks/tokenise_traces/{run}/{text}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(2000),
        runtime=60,
        torch_threads=1,
    params:
        cfg=TRACE_SETTINGS,
        code=code("workflow/ssae/tokenise_steps.py"),
    script:
        "../workflow/ssae/tokenise_steps.py"


rule tokenise_files:
    input:
        unpack(lambda wildcards: policy_files(SHARED, "base")),
        traces=lambda wildcards: GIVEN_FILES[wildcards.part],
    output:
        steps=f"{STEPS_OF_FILES}/steps.h5",
        manifest=f"{STEPS_OF_FILES}/manifest.json",
        provenance=f"{STEPS_OF_FILES}/provenance.json",
    log:
        "results/logs/tokenise_files/{part}.log",
    benchmark:
        "results/benchmarks/tokenise_files/{part}.tsv"
    wildcard_constraints:
        part="train|valid",
    conda:
        "../envs/lm.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(2000),
        runtime=480,
        torch_threads=1,
    params:
        cfg=STEP_SETTINGS,
        code=code("workflow/ssae/tokenise_steps.py"),
    script:
        "../workflow/ssae/tokenise_steps.py"


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
