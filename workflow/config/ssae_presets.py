"""Settings by name: those of the published SSAEs (files of the hub repository Miaow-Lab/SSAE-Checkpoints), and a small SSAE."""

from typing import Any

from workflow.config.section import nearest

REPOSITORY = "Miaow-Lab/SSAE-Checkpoints"
QWEN, LLAMA = "Qwen2.5-0.5b", "Llama-3.2-1b"
MODELS = {QWEN: "Qwen/Qwen2.5-0.5B", LLAMA: "meta-llama/Llama-3.2-1B"}
FORMATS = {"gsm8k-385k": "gsm8k_aug", "numina-859k": "numina", "opencodeinstruct-36k": "opencodeinstruct"}
PUBLISHED = (
    ("gsm8k-385k", QWEN),
    ("gsm8k-385k", LLAMA),
    ("numina-859k", QWEN),
    ("opencodeinstruct-36k", QWEN),
    ("opencodeinstruct-36k", LLAMA),
)
SMALL: dict[str, Any] = {
    "source": "fresh",
    "blocks": 2,
    "target_l1": 3.0,
    "initialisation": "at_target",
    "sparsity": {"controller": "predictive", "start_weight": 0.001, "max_weight": 1.0},
    "training": {
        "epochs": 1,
        "max_updates": 1000,
        "encoder_lr_multiple": 0.1,
        "warmup_epochs": 0.1,
        "schedule_per": "update",
        "lr": 1e-3,
        "min_lr": 1e-4,
        "batch": 8,
        "micro_batch": 8,
        "train_embeddings": False,
        "precision": "bf16",
        "evaluations_per_epoch": 4.0,
    },
}
"""A minute or two on one core for a language model of 135M parameters: its first blocks, at a rate for so few updates."""
PRESETS: dict[str, dict[str, Any]] = {
    "small": SMALL,
} | {
    f"{data}_{base}_spar-10": {
        "source": "given",
        "base_model": MODELS[base],
        "factor": 1,
        "target_l1": 10.0,
        "given": {"model": REPOSITORY, "file": f"{data}_{base}_spar-10.pt"},
        "data": {"format": FORMATS[data]},
    }
    for data, base in PUBLISHED
}
"""Values of section `ssae`; what is not named here has the section's defaults, which are those of the published training."""


def preset_values(name: str) -> dict[str, Any]:
    """Values of one preset.

    Raises:
        ValueError: no preset has this name; the nearest one is named.
    """
    if name not in PRESETS:
        guess = nearest(name, list(PRESETS))
        raise ValueError(
            f"ssae.preset must be null or one of {', '.join(PRESETS)}; got {name!r}. "
            f"{f'Did you mean {guess}?' if guess else 'Choose one of them.'}"
        )
    return PRESETS[name]
