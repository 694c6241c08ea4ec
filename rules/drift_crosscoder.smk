"""Phase drift, one dictionary for all stages at once: the independent check on what the chains of SAEs say.

in:  the held-out shards of all stages on the text `fixed`; for the agreement alone, the SAEs of the chain real
out: results/drift/{crosscoder,agreement}.{parquet,csv}
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


rule crosscoder_table:
    input:
        stages=ancient([f"{cell}/stages.parquet" for cell in CROSSCODER_CELLS]),
        manifests=[f"{cell}/measured.json" for cell in CROSSCODER_CELLS],
        policies=[policy_files(run, stage)["policy"] for run, stage in every_policy()],
    output:
        crosscoder="results/drift/crosscoder.parquet",
        crosscoder_csv="results/drift/crosscoder.csv",
        manifest="results/drift/crosscoder.json",
        provenance="results/drift/crosscoder.provenance.json",
    log:
        "results/logs/crosscoder_table.log",
    benchmark:
        "results/benchmarks/crosscoder_table.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=30,
        torch_threads=1,
    params:
        cfg={},
        code=code("workflow/drift/crosscoder_table.py"),
    script:
        "../workflow/drift/crosscoder_table.py"


MATCHED = CELL + "/crosscoders"


def matched_inputs(wildcards):
    """The crosscoders of a run and layer with what was measured of them, the SAEs of `real`, and what became of their latents."""
    w = wildcards
    together = [TOGETHER.format(run=w.run, text=w.text, seed=seed, layer=w.layer) for seed in STUDY.drift.crosscoder.seeds]
    folders = [sae_folder(w.run, STUDY.saes.text, w.kind, "real", w.seed, stage, w.layer) for stage in stage_names(w.run)]
    return {
        "crosscoders": [f"{folder}/manifest.json" for folder in together],
        "crosscoders_bulk": ancient([f"{folder}/crosscoder.safetensors" for folder in together]),
        "measured": [f"{folder}/measured.json" for folder in together],
        "told": ancient([f"{folder}/latents.parquet" for folder in together]),
        "saes": [f"{folder}/manifest.json" for folder in folders],
        "saes_bulk": ancient([f"{folder}/sae.safetensors" for folder in folders]),
    }


rule match_crosscoder:
    input:
        unpack(matched_inputs),
        drift=f"{CELL}/manifest.json",
        chain=ancient(f"{CELL}/latents.parquet"),
    output:
        matches=f"{MATCHED}/matches.parquet",
        agreement=f"{MATCHED}/agreement.parquet",
        manifest=f"{MATCHED}/manifest.json",
        provenance=f"{MATCHED}/provenance.json",
    log:
        "results/logs/match_crosscoder/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.log",
    benchmark:
        "results/benchmarks/match_crosscoder/{run}/{text}/{kind}/seed_{seed}/layer_{layer}.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=lambda wildcards, attempt: crosscoder_memory(wildcards, attempt) + drift_memory(wildcards, attempt),
        runtime=60,
        torch_threads=1,
    params:
        cfg={"ancestor_cosine": STUDY.drift.ancestor_cosine},
        code=code("workflow/drift/match_crosscoder.py"),
    script:
        "../workflow/drift/match_crosscoder.py"


MATCHED_CELLS = expand(
    MATCHED,
    run=STUDY.runs,
    text=["fixed"],
    kind=STUDY.design.kinds,
    seed=STUDY.design.seeds,
    layer=LAYERS,
)


rule agreement_table:
    input:
        agreements=ancient([f"{cell}/agreement.parquet" for cell in MATCHED_CELLS]),
        manifests=[f"{cell}/manifest.json" for cell in MATCHED_CELLS],
    output:
        agreement="results/drift/agreement.parquet",
        agreement_csv="results/drift/agreement.csv",
        manifest="results/drift/agreement.json",
        provenance="results/drift/agreement.provenance.json",
    log:
        "results/logs/agreement_table.log",
    benchmark:
        "results/benchmarks/agreement_table.tsv"
    conda:
        "../envs/numerics.yaml"
    threads: ONE_THREAD
    resources:
        mem_mb=memory(1500),
        runtime=30,
        torch_threads=1,
    params:
        cfg={},
        code=code("workflow/drift/agreement_table.py"),
    script:
        "../workflow/drift/agreement_table.py"


JOINT_TABLES = ["representation"] * bool(PAIRED_TEXTS) + ["crosscoder", "agreement"] * WITH_CROSSCODER
JOINT_PROVENANCES = [
    *[f"{cell}/provenance.json" for cell in ALIKE_CELLS],
    *[f"{cell}/{part}provenance.json" for cell in CROSSCODER_CELLS * WITH_CROSSCODER for part in ("", "measured.")],
    *[f"{cell}/provenance.json" for cell in MATCHED_CELLS * WITH_CROSSCODER],
]
