"""Phase ssae: codes of the reasoning steps of a set of traces, for the phases that ask for them; nothing here runs by itself.

in:  a step-level SAE, steps of any text set
out: results/ssae/codes/{run}/{chain}/seed_{seed}/{stage}/{of_run}/{text}/{of_stage}/{codes.parquet,manifest.json}
"""

STEP_CODES = "results/ssae/codes/{run}/{chain}/seed_{seed}/{stage}/{of_run}/{text}/{of_stage}"


def coded_inputs(wildcards):
    """An SSAE and the steps that it encodes."""
    folder = STEP_SAE.format(**ssae_at(wildcards)._asdict())
    steps = STEPS_OF_TRACES.format(run=wildcards.of_run, text=wildcards.text, stage=wildcards.of_stage)
    return {
        "ssae": f"{folder}/manifest.json",
        "ssae_bulk": ancient(f"{folder}/step_sae.safetensors"),
        "steps": f"{steps}/manifest.json",
        "steps_bulk": ancient(f"{steps}/steps.h5"),
    }


rule encode_ssae:
    input:
        unpack(coded_inputs),
    output:
        codes=f"{STEP_CODES}/codes.parquet",
        manifest=f"{STEP_CODES}/manifest.json",
        provenance=f"{STEP_CODES}/provenance.json",
    log:
        "results/logs/encode_ssae/{run}/{chain}/seed_{seed}/{stage}/{of_run}/{text}/{of_stage}.log",
    benchmark:
        "results/benchmarks/encode_ssae/{run}/{chain}/seed_{seed}/{stage}/{of_run}/{text}/{of_stage}.tsv"
    wildcard_constraints:
        of_run=r"[A-Za-z]\w*",
        of_stage=r"[A-Za-z]\w*",
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=ssae_memory,
        runtime=240,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg={"device": MACHINE["device"]},
        code=code("workflow/ssae/encode_ssae.py"),
    script:
        "../workflow/ssae/encode_ssae.py"
