"""Section `saes`: sparse autoencoders and the chains that link them."""

from typing import Any, Literal

from pydantic import PositiveInt, field_serializer, field_validator, model_validator

from workflow.config.sae_checks import check_settings, check_use
from workflow.config.sae_settings import PRICED, RESAMPLING, Kind, SaeSettings
from workflow.config.section import Section
from workflow.config.traces import Text

Chain = Literal["real", "null"]


class LayerOverride(Section):
    """What one layer does differently."""

    k: PositiveInt | None = None
    """Latents kept per row at this layer."""

    expansion: PositiveInt | None = None
    """d_sae over d_model at this layer."""


class SaesConfig(SaeSettings):
    text: Text = "fixed"
    """Text set whose rows train the SAEs."""

    kinds: list[Kind] = ["topk"]
    """`topk`: ReLU after selection (Gao et al. 2024); `topk_signed`: the largest pre-activations, no ReLU (OhhMoo SAE-RL);
    `topk_absolute`: the largest in size; `batchtopk` (Bussmann et al. 2024); `matryoshka_batchtopk` (Bussmann et al. 2025); `relu`
    (Bricken et al. 2023); `jumprelu` (Rajamanoharan et al. 2024b); `gated` (Rajamanoharan et al. 2024a)."""

    chains: list[Chain] = ["real", "null"]
    """`real`: each stage's SAE starts from the previous stage's; `null`: the same updates on rows of the base policy throughout."""

    seeds: list[int] = [0]
    """SAE seeds: initialisation, row order and resampling."""

    by_kind: dict[Kind, SaeSettings] = {}
    """Other values of the settings above for single kinds, such as {jumprelu: {sparsity_coef: 0.01, target_l0: 32}}."""

    by_layer: dict[str, LayerOverride] = {}
    """Other k or expansion for single layers, by the layer's number in quotes; they go before by_kind."""

    hop_rows: Literal["fresh", "same"] = "fresh"
    """`fresh`: every hop of a chain trains on its own block of problems; `same`: all on the first block."""

    hop_epochs: PositiveInt | None = None
    """Passes over the rows of a later hop; null is `epochs`."""

    together: bool = False
    """One job trains all kinds of a cell on one reading of its rows: the same files from fewer, larger jobs. A kind added later
    then trains them all again."""

    @field_validator("chains", mode="before")
    @classmethod
    def _unquoted_null(cls, chains: Any) -> Any:
        """YAML reads a bare `null` in a list as nothing; here it can only mean the chain."""
        return ["null" if chain is None else chain for chain in chains] if isinstance(chains, list) else chains

    @field_validator("by_kind", mode="before")
    @classmethod
    def _drop_removed(cls, by_kind: Any) -> Any:
        """An override set to null is taken out again: settings given later can only add to those of config.yaml."""
        return {kind: own for kind, own in by_kind.items() if own is not None} if isinstance(by_kind, dict) else by_kind

    @field_serializer("by_kind")
    def _only_overridden(self, by_kind: dict[Kind, SaeSettings]) -> dict[str, dict[str, Any]]:
        return {kind: own.model_dump(mode="json", exclude_unset=True) for kind, own in by_kind.items()}

    @field_validator("kinds", "chains", "seeds")
    @classmethod
    def _once(cls, values: list) -> list:
        if not values or len(set(values)) < len(values):
            raise ValueError(f"saes.kinds, saes.chains and saes.seeds must hold each value once and one at least; got {values}.")
        return values

    @model_validator(mode="after")
    def _coherent(self) -> "SaesConfig":
        if "real" not in self.chains:
            raise ValueError(f"saes.chains must hold `real`, the others are its controls; got {self.chains}. Add it.")
        check_use(self, self.by_kind, self.kinds)
        for kind in self.kinds:
            check_settings(kind, self.settings(kind, None, 0))
        return self

    def settings(self, kind: str, layer: int | None, hop: int) -> SaeSettings:
        """What the SAE of one kind, layer (None: one without override) and hop is trained with."""
        values = {name: getattr(self, name) for name in SaeSettings.model_fields}
        own = self.by_kind.get(kind)  # type: ignore[arg-type]  # a wildcard's text
        changes = {name: getattr(own, name) for name in own.model_fields_set} if own else {}
        if kind in PRICED or changes.keys() & set(RESAMPLING):
            values |= dict.fromkeys(RESAMPLING, 0)
        values |= changes
        values |= self.by_layer.get(str(layer), LayerOverride()).model_dump(exclude_none=True)
        if hop:
            values |= {"sparsity_warmup_updates": 0} | ({"epochs": self.hop_epochs} if self.hop_epochs is not None else {})
        return SaeSettings.model_validate(values)
