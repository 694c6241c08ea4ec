"""An OpenAI-compatible chat endpoint, as a part of other sections; nothing needs one, and no configuration holds its key."""

from typing import Any
from urllib.parse import SplitResult, urlsplit

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from workflow.config.section import Section


class EndpointConfig(Section):
    url: str
    """Address in front of /chat/completions, such as https://api.openai.com/v1 or http://localhost:8000/v1."""

    model: str
    """Name of the model there."""

    key_variable: str | None = None
    """Environment variable that holds the key; null for a server that asks for none."""

    timeout_s: PositiveFloat = 120.0
    """Seconds after which a request that got no answer is tried again."""

    retries: NonNegativeInt = 5
    """Further tries after a timeout, a lost connection, or an answer 408, 409, 425, 429 or 5xx."""

    backoff_s: PositiveFloat = 1.0
    """Seconds before the first further try, doubled with each; a larger Retry-After of the server goes before it."""

    max_backoff_s: PositiveFloat = 60.0
    """Longest such wait, Retry-After included."""

    concurrency: PositiveInt = 4
    """Requests under way at once; it changes speed, not results."""

    max_tokens: PositiveInt = 512
    """Longest answer."""

    json_mode: bool = True
    """Ask for JSON by `response_format` where JSON is wanted; switch it off for servers that do not know it."""

    body: dict[str, Any] = {}
    """More fields of every request, such as {max_completion_tokens: 512, max_tokens: null}; null leaves one out."""

    @field_validator("url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        found = urlsplit(url)
        if found.scheme not in ("http", "https") or not found.hostname or not _has_port(found):
            raise ValueError(f"The url of an endpoint must be like http://localhost:8000/v1; got {url!r}. Correct it.")
        if found.username or found.password or found.query:
            raise ValueError(
                "The url of an endpoint must hold no user, password or query, because it is written into results; this one does. "
                "Put the key into an environment variable and its name into key_variable."
            )
        return url.rstrip("/").removesuffix("/chat/completions")


def _has_port(url: SplitResult) -> bool:
    """Whether the port, where one is given, is one."""
    try:
        return url.port != 0
    except ValueError:
        return False
