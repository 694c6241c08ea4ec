"""The JSON schema of config.yaml, generated from the typed mirror: `python -m workflow.config.document` rewrites it.

Editors that know JSON schemas check and complete config.yaml by it.
"""

import json
from pathlib import Path

from workflow.config.study import Study

SCHEMA = Path(__file__).with_name("schema.json")


def schema_text() -> str:
    """The schema as the file holds it."""
    schema = Study.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "saedrift configuration",
    }
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
