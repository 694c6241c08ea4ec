"""Section `saes`: sparse autoencoders and the chains that link them."""

from typing import Any, Literal

from pydantic import PositiveInt, field_serializer, field_validator

from workflow.config.sae_settings import RESAMPLING, Kind, SaeSettings
from workflow.config.section import Section
from workflow.config.traces import Text


class LayerOverride(Section):
    """What one layer does differently."""

    k: PositiveInt | None = None
    """Latents kept per row at this layer."""

    expansion: PositiveInt | None = None
    """d_sae over d_model at this layer."""


class SaesConfig(SaeSettings):
    text: Text = "fixed"
    """Text set whose rows train the SAEs."""

    by_kind: dict[Kind, SaeSettings] = {}
    """Other values of the settings above for single kinds, such as {jumprelu: {sparsity_coef: 0.1, target_l0: 32}}."""

    by_layer: dict[str, LayerOverride] = {}
    """Other k or expansion for single layers, by the layer's number in quotes; they go before by_kind."""

    hop_rows: Literal["fresh", "same"] = "fresh"
    """`fresh`: every hop of a chain trains on its own block of problems; `same`: all on the first block."""

    hop_epochs: PositiveInt | None = None
    """Passes over the rows of a later hop; null is `epochs`."""

    together: bool = False
    """One job trains all kinds of a cell on one reading of its rows: the same files from fewer, larger jobs. A kind added later
    then trains them all again."""

    @field_validator("by_kind", mode="before")
    @classmethod
    def _drop_removed(cls, by_kind: Any) -> Any:
        """An override set to null is taken out again: settings given later can only add to those of config.yaml."""
        return {kind: own for kind, own in by_kind.items() if own is not None} if isinstance(by_kind, dict) else by_kind

    @field_serializer("by_kind")
    def _only_overridden(self, by_kind: dict[Kind, SaeSettings]) -> dict[str, dict[str, Any]]:
        return {kind: own.model_dump(mode="json", exclude_unset=True) for kind, own in by_kind.items()}

    def settings(self, kind: str, layer: int | None, hop: int) -> SaeSettings:
        """What the SAE of one kind, layer (None: one without override) and hop is trained with."""
        values = {name: getattr(self, name) for name in SaeSettings.model_fields}
        own = self.by_kind.get(kind)  # type: ignore[arg-type]  # a wildcard's text
        changes = {name: getattr(own, name) for name in own.model_fields_set} if own else {}
        if changes.keys() & set(RESAMPLING):
            values |= dict.fromkeys(RESAMPLING, 0)
        values |= changes
        values |= self.by_layer.get(str(layer), LayerOverride()).model_dump(exclude_none=True)
        if hop:
            values |= {"sparsity_warmup_updates": 0} | ({"epochs": self.hop_epochs} if self.hop_epochs is not None else {})
        return SaeSettings.model_validate(values)
