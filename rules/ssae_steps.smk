"""Phase ssae: reasoning steps with their contexts as token ids, made once for all that read them.

in:  traces or files of solutions, the tokenizer of the base model
out: results/ssae/steps/{run}/{text}/{stage}/, results/ssae/steps/files/{part}/: steps.h5, manifest.json
"""

STEPS_OF_TRACES = "results/ssae/steps/{run}/{text}/{stage}"
STEPS_OF_FILES = "results/ssae/steps/files/{part}"
GIVEN_FILES = {part: getattr(STUDY.ssae.data, part) for part in ("train", "valid") if getattr(STUDY.ssae.data, part)}
STEP_SETTINGS = {
    "base_model": STUDY.ssae.base_model,
    "data": STUDY.ssae.params()["data"],
    "legacy": STUDY.ssae.params()["legacy"],
    "revision": STUDY.ssae.revision,
}
TRACE_SETTINGS = STEP_SETTINGS | {"data": STEP_SETTINGS["data"] | {"format": "traces", "train": None, "valid": None}}


rule tokenise_traces:
    input:
        unpack(lambda wildcards: policy_files(SHARED, "base")),
        manifest_of_traces=lambda wildcards: f"{trace_folder(wildcards.run, wildcards.text, wildcards.stage)}/manifest.json",
        traces=ancient(lambda wildcards: f"{trace_folder(wildcards.run, wildcards.text, wildcards.stage)}/traces.parquet"),
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
