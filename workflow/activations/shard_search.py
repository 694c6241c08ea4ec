"""Finding shards below folders that a person names."""

from collections.abc import Sequence
from pathlib import Path

from workflow.config.section import ConfigError


def manifests_below(places: Sequence[Path]) -> list[Path]:
    """Manifests of all shards in and below folders, each folder's sorted; a manifest may be named itself.

    Raises:
        ConfigError: a place holds none.
    """
    found: list[Path] = []
    for place in places:
        below = sorted(path for path in place.rglob("shard_*.json") if not path.name.endswith(".provenance.json"))
        here = [place] if place.is_file() else below
        if not here:
            raise ConfigError(
                f"A store must hold shards (shard_<n>.json); {place} {'has none' if place.is_dir() else 'does not exist'}. "
                "Name a folder like results/activations/shared/fixed/base/layer_10/heldout."
            )
        found += here
    return found
