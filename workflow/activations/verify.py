"""Check every shard below a folder: row tables, chunk counts, the checksum of every chunk, digests.

python -m workflow.activations.verify results/activations [--set-aside]
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from workflow.activations.shard_search import manifests_below
from workflow.config.section import ConfigError
from workflow.formats.shard_reading import CorruptShard, OpenShard, set_aside
from workflow.progress import tracked

log = logging.getLogger(__name__)


class Finding(NamedTuple):
    """What the check of one shard found."""

    manifest: Path
    rows: int
    """0 where the shard is damaged."""
    mebibytes: float
    """Size of the array."""
    damage: str
    """Empty for a sound shard."""


def check(manifest: Path) -> Finding:
    """Read one shard completely."""
    try:
        shard = OpenShard(manifest)
        shard.verify()
    except CorruptShard as error:
        return Finding(manifest, 0, 0.0, str(error))
    size = sum(path.stat().st_size for path in shard.files.array.rglob("*") if path.is_file())
    return Finding(manifest, shard.facts["rows"], size / 2**20, "")


def table(findings: Sequence[Finding], root: Path) -> str:
    """One line per shard."""
    paths = [finding.manifest for finding in findings]
    names = [str(path.relative_to(root) if root in path.parents else path) for path in paths]
    width = max(map(len, names))
    lines = [f"{'shard':{width}}  {'rows':>12}  {'MiB':>9}  state"]
    for name, finding in zip(names, findings, strict=True):
        state = "corrupt" if finding.damage else "ok"
        lines.append(f"{name:{width}}  {finding.rows:>12,}  {finding.mebibytes:>9.1f}  {state}")
    return "\n".join(lines)


def verify(folder: Path, aside: bool = False) -> list[Finding]:
    """Check all shards below a folder, log a table, and with `aside` set the damaged ones aside.

    Raises:
        ConfigError: there is no shard.
    """
    manifests = manifests_below([folder])
    findings = [check(manifest) for manifest in tracked(manifests, len(manifests), "verify", "shards")]
    log.info("%s", table(findings, folder))
    for finding in findings:
        if finding.damage:
            log.error("%s", finding.damage)
            if aside:
                log.info("set aside: %s", ", ".join(path.name for path in set_aside(finding.manifest)))
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every shard is sound, else 1."""
    parser = argparse.ArgumentParser(prog="python -m workflow.activations.verify", description=__doc__)
    parser.add_argument("folder", type=Path, help="everything below it is checked")
    parser.add_argument(
        "--set-aside", action="store_true", help="rename damaged shards to *.corrupt, so that the next run rebuilds them"
    )
    options = parser.parse_args(arguments)
    try:
        findings = verify(options.folder, options.set_aside)
    except ConfigError as error:
        log.error("%s", error)
        return 1
    return int(any(finding.damage for finding in findings))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
