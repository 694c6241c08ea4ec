"""How far policies are from base, as their manifests say."""

from collections.abc import Sequence
from pathlib import Path

from workflow.formats.manifest import read_manifest


def policy_kl(policies: Sequence[Path | str]) -> dict[tuple[str, str], float | None]:
    """Nats per response by (run, stage), None where a policy's trainer did not log it."""
    found = {}
    for path in policies:
        facts = read_manifest(path, "policy")
        found[facts["run"], facts["stage"]] = facts["kl"]
    return found
