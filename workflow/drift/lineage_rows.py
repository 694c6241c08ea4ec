"""The table of lineages: how many events of each kind, beside those of the null chain."""

import pyarrow as pa

from workflow.drift.lineage import EVENTS, subtracted
from workflow.formats.drift import BASE, NULL, REAL
from workflow.formats.latent_columns import Lineage

UNPLACED = "unplaced"


def lineage_rows(events: pa.Table, dictionary: pa.Table) -> list[Lineage]:
    """How many events of each kind one measurement has in the chain `real`, and in `null`.

    Args:
        events: its lineage.
        dictionary: its table of SAEs, which says how many latents are in no event.
    """
    counted = events.group_by(["chain", "stage", "event"], use_threads=False).aggregate([([], "count_all")]).to_pylist()
    counts = {(row["chain"], row["stage"], row["event"]): row["count_all"] for row in counted}
    saes = {(row["chain"], row["stage"]): row for row in dictionary.to_pylist() if row["stage"] != BASE}
    found = {name: {event: counts.get((*name, event), 0) for event in EVENTS} | {UNPLACED: saes[name][UNPLACED]} for name in saes}
    rows = []
    for stage in (stage for chain, stage in saes if chain == REAL):
        real, null = found[REAL, stage], found.get((NULL, stage))
        beyond = subtracted(real, null) if null else {}
        keys = {name: saes[REAL, stage][name] for name in ("run", "text", "kind", "seed", "stage", "update", "layer")}
        for event, count in real.items():
            rows.append(
                Lineage(**keys, event=event, count=count, null_count=null[event] if null else None, excess=beyond.get(event))
            )
    return rows
