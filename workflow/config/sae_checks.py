"""Settings of SAEs that contradict each other or the model, refused in the words of config.yaml."""

from collections.abc import Mapping, Sequence

from workflow.config.sae_settings import PRICED, RESAMPLING, SELECTING, Kind, SaeSettings

READ_BY: dict[str, tuple[str, ...]] = {
    "k": SELECTING,
    "aux_coef": SELECTING,
    "aux_k_multiple": SELECTING,
    "aux_target": SELECTING,
    "widths": ("matryoshka_batchtopk",),
    "threshold_rate": ("batchtopk", "matryoshka_batchtopk"),
    "sparsity_coef": PRICED,
    "sparsity_warmup_updates": PRICED,
    "target_l0": ("jumprelu",),
    "bandwidth": ("jumprelu",),
    "initial_threshold": ("jumprelu",),
    "threshold_lr_multiple": ("jumprelu",),
}
"""Settings that only some kinds read."""
EXAMPLES = {
    "relu": "saes.by_kind.relu.sparsity_coef=0.003",
    "jumprelu": "saes.by_kind.jumprelu.sparsity_coef=0.1 saes.by_kind.jumprelu.target_l0=32",
    "gated": "saes.by_kind.gated.sparsity_coef=0.01",
}
"""Prices to begin with: on rows of a model with 135M parameters they left 70, 30 and 30 latents active of 2304."""


def check_use(shared: SaeSettings, by_kind: Mapping[Kind, SaeSettings], kinds: Sequence[Kind]) -> None:
    """Refuse settings that no SAE of the study would read.

    Raises:
        ValueError: an override of a kind that is not trained, a setting that its kind does not read, or one that no kind reads.
    """
    if idle := [kind for kind in by_kind if kind not in kinds]:
        raise ValueError(
            f"saes.by_kind may name only kinds of design.kinds = {list(kinds)}; got {', '.join(idle)}. "
            "Add the kind there, or set its override to null."
        )
    for kind, own in by_kind.items():
        if idle := [name for name in sorted(own.model_fields_set) if kind not in READ_BY.get(name, kinds)]:
            raise ValueError(
                f"saes.by_kind.{kind} may hold only what SAEs of the kind {kind} read; got {', '.join(idle)}, read by "
                f"{', '.join(READ_BY[idle[0]])}. Remove it."
            )
    for name, readers in READ_BY.items():
        default = SaeSettings.model_fields[name].default
        if readers != SELECTING and getattr(shared, name) != default and not set(readers) & set(kinds):
            raise ValueError(
                f"saes.{name} is read by the kinds {', '.join(readers)} alone, and design.kinds = {list(kinds)} holds none of "
                f"them; got {getattr(shared, name)}. Add one of them, or leave {name} at {default}."
            )


def check_settings(kind: str, own: SaeSettings) -> None:
    """Refuse values that contradict each other.

    Raises:
        ValueError: see there.
    """
    if kind in PRICED and not own.sparsity_coef:
        raise ValueError(
            f"saes.sparsity_coef must be above 0 for the kind {kind}, which is sparse by that price alone; got 0. "
            f"Set it, to begin with by {EXAMPLES[kind]}, and look at l0 in history.csv."
        )
    if kind in PRICED and own.patience:
        raise ValueError(
            f"saes.patience must be 0 for the kinds {', '.join(PRICED)}, whose last epoch is kept; got {own.patience} for {kind}. "
            f"Set saes.by_kind.{kind}.patience=0."
        )
    if own.schedule == "restarts" and not own.restart_updates:
        raise ValueError(
            f"saes.restart_updates must be at least 1 with saes.schedule=restarts; got 0 for {kind}. Give the cycle's updates."
        )
    rules = {name: getattr(own, name) for name in RESAMPLING}
    if sum(value > 0 for value in rules.values()) > 1:
        raise ValueError(
            f"At most one of {', '.join(f'saes.{name}' for name in rules)} may be above 0; got "
            f"{', '.join(str(value) for value in rules.values())} for {kind}. Set the others to 0."
        )
    if kind == "matryoshka_batchtopk":
        rising = all(low < high for low, high in zip([0.0, *own.widths], own.widths, strict=False))
        if not (own.widths and rising and own.widths[-1] == 1):
            raise ValueError(
                f"saes.widths must be shares of d_sae that rise from above 0 to 1; got {own.widths}. Order them, end with 1.0."
            )


def check_shape(kind: str, own: SaeSettings, d_model: int) -> None:
    """Refuse numbers of latents that an SAE of this width does not have.

    Raises:
        ValueError: k, target_l0 or a width does not go into d_sae.
    """
    d_sae, shape = own.expansion * d_model, f"(expansion {own.expansion} × d_model {d_model})"
    if kind in SELECTING and own.k > d_sae:
        raise ValueError(f"saes.k must be at most d_sae = {d_sae} {shape}; got {own.k}. Lower saes.k or raise saes.expansion.")
    if kind == "jumprelu" and own.target_l0 is not None and own.target_l0 > d_sae:
        raise ValueError(
            f"saes.target_l0 must be at most d_sae = {d_sae} {shape}; got {own.target_l0}. Lower it or raise saes.expansion."
        )
    if kind == "matryoshka_batchtopk":
        widths = latents_of(own.widths, d_sae)
        if len({0, *widths}) <= len(widths):
            raise ValueError(
                f"saes.widths must be different whole numbers of latents of d_sae = {d_sae} {shape}; {own.widths} gives "
                f"{list(widths)}. Name fewer widths or raise saes.expansion."
            )


def latents_of(widths: Sequence[float], d_sae: int) -> tuple[int, ...]:
    """Shares of d_sae as numbers of latents."""
    return tuple(round(share * d_sae) for share in widths)
