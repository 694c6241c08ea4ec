"""Phase n2g, second part: patterns of the latents of step-level SAEs.

in:  step-level SAEs, the steps of traces that they were trained on
out: results/n2g/steps/{run}/{chain}/seed_{seed}/{stage}/{n2g.jsonl,latents.parquet,manifest.json}
"""

STEP_N2G = "results/n2g/steps/{run}/{chain}/seed_{seed}/{stage}"
OF_TRACES = STUDY.ssae.data.format in (None, "traces")


def step_n2g_inputs(wildcards):
    """An SSAE and the steps it was trained on."""
    at = ssae_at(wildcards)
    folder, steps = STEP_SAE.format(**at._asdict()), STEPS_OF_TRACES.format(**steps_of(STUDY, at)._asdict())
    return {
        "ssae": f"{folder}/manifest.json",
        "ssae_bulk": ancient(f"{folder}/step_sae.safetensors"),
        "base": ancient(f"{folder}/base"),
        "steps": f"{steps}/manifest.json",
        "steps_bulk": ancient(f"{steps}/steps.h5"),
    }


rule mine_step_n2g:
    input:
        unpack(step_n2g_inputs),
    output:
        lines=f"{STEP_N2G}/n2g.jsonl",
        latents=f"{STEP_N2G}/latents.parquet",
        manifest=f"{STEP_N2G}/manifest.json",
        provenance=f"{STEP_N2G}/provenance.json",
    log:
        "results/logs/mine_step_n2g/{run}/{chain}/seed_{seed}/{stage}.log",
    benchmark:
        "results/benchmarks/mine_step_n2g/{run}/{chain}/seed_{seed}/{stage}.tsv"
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=ssae_memory,
        runtime=480,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg={
            "bootstrap": BOOTSTRAP,
            "device": MACHINE["device"],
            "seed": STUDY.n2g.seed,
            "steps": STUDY.n2g.params()["steps"],
        },
        code=code("workflow/n2g/mine_step_n2g.py"),
    script:
        "../workflow/n2g/mine_step_n2g.py"


STEP_N2G_FOLDERS = [STEP_N2G.format(**at._asdict()) for at in EVERY_SSAE if STUDY.n2g.steps.latents and OF_TRACES]
