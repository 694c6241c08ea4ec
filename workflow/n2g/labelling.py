"""Names for latents by a language model behind an endpoint; an answer that cannot be read leaves a latent without."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from workflow.config.endpoint import EndpointConfig
from workflow.endpoint import Endpoint, Messages
from workflow.formats.n2g import read_graphs
from workflow.formats.parquet import write_records
from workflow.n2g.graphs import telling
from workflow.n2g.patterns import shown

LABELS = pa.schema([("sae", pa.string()), ("latent", pa.int64()), ("label", pa.string()), ("fault", pa.string())])
"""A row for each latent that has a pattern; `label` null with the `fault` beside it."""
TASK = (
    "You name what a unit of a sparse autoencoder responds to in texts of a language model. You are given token patterns, each "
    "ending at the token on which the unit is active (<NUM> any number, <OP> any operator, * any token, *{0,4} up to four tokens), "
    "and texts with the importance of each token. Answer with one JSON object and nothing else: "
    '{"label": "at most six words"}.'
)
PATTERNS, CONTEXTS = 8, 4
"""As many are shown."""
LONGEST = 80
"""Characters of a label at most."""
UNREADABLE = f"the answer has no label of at most {LONGEST} characters"


def label_latents(*, graphs: Sequence[Path | str], labels: Sequence[Path | str], settings: EndpointConfig) -> dict[str, Any]:
    """Write a table of `LABELS` for each manifest of graphs; counts for provenance.

    Args:
        graphs: manifests.
        labels: parquet files, in their order.
        settings: of the endpoint.

    Raises:
        ConfigError: the endpoint refuses, cannot be reached, or answers nothing.
    """
    with Endpoint(settings) as endpoint:
        for manifest, path in zip(graphs, labels, strict=True):
            asked = [one for one in read_graphs(manifest)[0]["latents"] if one["patterns"]]
            replies = endpoint.ask(map(question, asked), wants_json=True)
            rows = [_row(one, reply.data, reply.fault) for one, reply in zip(asked, replies, strict=True)]
            write_records(path, rows, LABELS)
        return endpoint.counts._asdict()


def question(told: Mapping[str, Any]) -> Messages:
    """What is asked of one latent of graphs.json."""
    patterns = [shown(one["elements"]) for one in telling(told["patterns"])[:PATTERNS]]
    contexts = [json.dumps(_weighed(one), ensure_ascii=False) for one in told["contexts"][:CONTEXTS]]
    text = "\n".join(["Patterns:", *patterns, "", "Texts, tokens with their importance:", *contexts])
    return [{"role": "system", "content": TASK}, {"role": "user", "content": text}]


def _weighed(context: Mapping[str, Any]) -> list[list[Any]]:
    return [[text, round(share, 2)] for text, share in zip(context["texts"], context["importance"], strict=True)]


def _row(told: Mapping[str, Any], answer: Any, fault: str | None) -> dict[str, Any]:
    told_label = answer.get("label") if isinstance(answer, dict) else None
    label = told_label.strip() if isinstance(told_label, str) else ""
    if not 0 < len(label) <= LONGEST:
        return {"sae": told["sae"], "latent": told["latent"], "label": None, "fault": fault or UNREADABLE}
    return {"sae": told["sae"], "latent": told["latent"], "label": label, "fault": None}


def with_labels(latents: pa.Table, labels: Iterable[Mapping[str, Any]]) -> pa.Table:
    """A table of latents with the labels of the same SAE in their column."""
    known = {(row["sae"], row["latent"]): row["label"] for row in labels}
    column = [known.get((row["sae"], row["latent"])) for row in latents.select(["sae", "latent"]).to_pylist()]
    place = latents.schema.get_field_index("label")
    return latents.set_column(place, latents.schema.field(place), pa.array(column, pa.string()))
