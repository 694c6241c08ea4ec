"""Phase activations: rows of the residual stream as zarr shards, one forward pass for all layers of a policy on a text set.

in:  results/traces, a policy
out: results/activations/{run}/{text}/{stage}/layer_{layer}/{part}/shard_{shard}.{zarr/,rows.parquet,json}
"""

LAYERS = STUDY.design.layers
STORE = "results/activations/{run}/{text}/{stage}"
READING = ("skip_positions", "max_norm_multiple")
EXTRACTION = {name: value for name, value in STUDY.activations.params().items() if name not in READING}


def shard_files(run, text, stage, part, layers=None):
    """Manifests, and as ancient files the arrays and row tables, of one part of the stores of a policy on a text set."""
    folder = f"results/activations/{STUDY.home(run, text, stage)}/{text}/{stage}"
    stems = [f"{folder}/layer_{layer}/{part}/shard_{shard}" for layer in layers or LAYERS for shard in SHARDS]
    return (
        [f"{stem}.json" for stem in stems],
        ancient([f"{stem}.{ending}" for stem in stems for ending in ("zarr", "rows.parquet")]),
    )


def text_files(wildcards):
    """The traces whose rows are read."""
    folder = trace_folder(wildcards.run, wildcards.text, wildcards.stage)
    return {"traces": ancient(f"{folder}/traces.parquet"), "traces_manifest": f"{folder}/manifest.json"}


rule extract_shard:
    input:
        unpack(text_files),
        unpack(lambda wildcards: policy_files(wildcards.run, wildcards.stage)),
    output:
        shards=[directory(f"{STORE}/layer_{layer}/{{part}}/shard_{{shard}}.zarr") for layer in LAYERS],
        rows=[f"{STORE}/layer_{layer}/{{part}}/shard_{{shard}}.rows.parquet" for layer in LAYERS],
        manifests=[f"{STORE}/layer_{layer}/{{part}}/shard_{{shard}}.json" for layer in LAYERS],
        provenance="results/activations/{run}/{text}/{stage}/{part}/shard_{shard}.provenance.json",
    log:
        "results/logs/extract_shard/{run}/{text}/{stage}/{part}/shard_{shard}.log",
    benchmark:
        "results/benchmarks/extract_shard/{run}/{text}/{stage}/{part}/shard_{shard}.tsv"
    wildcard_constraints:
        text="fixed|replayed|onpolicy",
    conda:
        "../envs/lm.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(2000, weights=2),
        runtime=240,
        gpu=GPU,
        torch_threads=STUDY.compute.threads,
    params:
        cfg={"activations": {**EXTRACTION, "layers": LAYERS}, "compute": MACHINE},
        code=code("workflow/activations/extract_shard.py"),
    script:
        "../workflow/activations/extract_shard.py"


EVERY_SHARD = [manifest for cell in every_store(STUDY) for manifest in shard_files(*cell)[0]]


rule activations:
    input:
        EVERY_SHARD,
