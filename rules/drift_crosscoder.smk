"""Phase drift, one dictionary for all stages at once: the independent check on what the chains of SAEs say.

in:  the held-out shards of all stages on the text `fixed`
out: results/drift/{run}/{text}/seed_{seed}/layer_{layer}/crosscoder/{crosscoder.safetensors,stages.parquet,latents.parquet}
"""

TOGETHER = "results/drift/{run}/{text}/seed_{seed}/layer_{layer}/crosscoder"
CLASS_LIMITS = ("exclusive", "rotated_cosine", "error_ratio", "reconstruction_ratio")
COUNTING = ("confidence", "min_firings", "min_prompts", "replicates", "seed")
CROSSCODER = {name: value for name, value in STUDY.drift.crosscoder.params().items() if name not in ("enabled", "seeds")}
LEARNING = {name: value for name, value in CROSSCODER.items() if name not in CLASS_LIMITS}


def crosscoder_memory(wildcards, attempt):
    """Megabytes of one crosscoder: its rows, weights, moments and gradients, and its numbers per row."""
    settings = STUDY.drift.crosscoder
    width, d_sae = len(stage_names(wildcards.run)) * SHAPE.d_model, settings.expansion * SHAPE.d_model
    numbers = settings.buffer_rows * width + 12 * d_sae * width + 8 * settings.batch * d_sae
    return attempt * (1500 + 4 * numbers // 10**6)


def counting_memory(wildcards, attempt):
    """Megabytes of measuring one: as for training it, and six sums per problem, latent and later stage, in float64."""
    problems, settings = STUDY.problems, STUDY.drift.crosscoder
    tested = (problems.size or 20_000) * problems.splits["test"] / sum(problems.splits.values()) * (1 - settings.train_share)
    sums = 6 * tested * settings.expansion * SHAPE.d_model * len(stage_names(wildcards.run)[1:])
    return crosscoder_memory(wildcards, attempt) + attempt * int(8 * sums / 10**6)


rule crosscoder:
    input:
        unpack(paired_stores),
    output:
        crosscoder=f"{TOGETHER}/crosscoder.safetensors",
        history=f"{TOGETHER}/history.csv",
        manifest=f"{TOGETHER}/manifest.json",
        provenance=f"{TOGETHER}/provenance.json",
    log:
        "results/logs/crosscoder/{run}/{text}/seed_{seed}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/crosscoder/{run}/{text}/seed_{seed}/layer_{layer}.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: THREADS
    resources:
        mem_mb=crosscoder_memory,
        runtime=240,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg=lambda wildcards: {
            **joint_settings(wildcards),
            "compute": {"backend": STUDY.compute.backend, "device": STUDY.compute.device},
            "crosscoder": LEARNING,
        },
        code=code("workflow/drift/crosscoder.py"),
    script:
        "../workflow/drift/crosscoder.py"


rule measure_crosscoder:
    input:
        unpack(paired_stores),
        manifest=f"{TOGETHER}/manifest.json",
        crosscoder=ancient(f"{TOGETHER}/crosscoder.safetensors"),
    output:
        stages=f"{TOGETHER}/stages.parquet",
        latents=f"{TOGETHER}/latents.parquet",
        manifest=f"{TOGETHER}/measured.json",
        provenance=f"{TOGETHER}/measured.provenance.json",
    log:
        "results/logs/measure_crosscoder/{run}/{text}/seed_{seed}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/measure_crosscoder/{run}/{text}/seed_{seed}/layer_{layer}.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: THREADS
    resources:
        mem_mb=counting_memory,
        runtime=60,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg={
            "compute": {"device": STUDY.compute.device},
            "drift": {
                **{name: SEQUENTIAL_DRIFT[name] for name in COUNTING},
                "crosscoder": {name: CROSSCODER[name] for name in CLASS_LIMITS},
            },
            "rows": ROW_FILTER,
        },
        code=code("workflow/drift/measure_crosscoder.py"),
    script:
        "../workflow/drift/measure_crosscoder.py"


WITH_CROSSCODER = STUDY.with_crosscoder
CROSSCODER_CELLS = expand(TOGETHER, run=STUDY.runs, text=["fixed"], seed=STUDY.drift.crosscoder.seeds, layer=LAYERS)
