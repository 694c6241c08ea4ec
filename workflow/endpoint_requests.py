"""One request to a chat endpoint: tried again where that may help, refused in plain words where it cannot."""

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from workflow.config.endpoint import EndpointConfig

log = logging.getLogger(__name__)

PASSING = frozenset({408, 409, 425, 429})
"""Status codes beside 5xx that another try may change."""
SHOWN_CHARACTERS = 200
"""Of a server's own words in a message."""


class RefusedError(Exception):
    """No request to this endpoint can be answered; the message tells what to do."""


class UnansweredError(Exception):
    """This request was not answered."""

    def __init__(self, fault: str, retries: int) -> None:
        super().__init__(fault)
        self.retries = retries
        """Further tries that were made."""


def post(client: httpx2.Client, body: dict[str, Any], settings: EndpointConfig, key: str | None) -> tuple[dict[str, Any], int]:
    """The answer to one request, with at least one choice that holds a message, and how many further tries it took.

    Args:
        client: carries the key.
        body: of the request.
        settings: address, retries and waits.
        key: cut out of the server's words, some servers repeat it.

    Raises:
        RefusedError: the key, the model or the address is refused, or the server cannot be reached in any try.
        UnansweredError: every try failed, or the server refuses this one request.
    """
    fault, lost = "", False
    for attempt in range(settings.retries + 1):
        headers: Mapping[str, str] = {}
        try:
            response = client.post(f"{settings.url}/chat/completions", json=body)
            headers, lost = response.headers, False
            if response.is_success:
                if (answer := _answer(response)) is not None:
                    return answer, attempt
                fault = "what came back is no answer of a chat endpoint"
            else:
                fault = f"status {response.status_code}: {_words(response, key)}"
                _stop(response.status_code, fault, settings, attempt)
        except httpx2.TimeoutException:
            fault, lost = f"no answer in {settings.timeout_s:g} s", False
        except httpx2.TransportError as error:
            fault, lost = f"{type(error).__name__}: {error}", True
        if attempt < settings.retries:
            log.warning("endpoint: %s; try %d of %d", fault, attempt + 2, settings.retries + 1)
            time.sleep(wait_s(attempt, headers, settings))
    if lost:
        raise RefusedError(
            f"{settings.url} must be in reach; in {settings.retries + 1} tries it was not: {fault}. Start the server, or correct "
            "the url of the endpoint."
        )
    raise UnansweredError(fault, settings.retries)


def wait_s(attempt: int, headers: Mapping[str, str], settings: EndpointConfig) -> float:
    """Seconds to wait behind the attempt-th try, from 0: doubling, or what the server asks for if that is longer."""
    return min(max(settings.backoff_s * 2.0**attempt, _retry_after_s(headers)), settings.max_backoff_s)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, as a number or a date; 0 without one that can be read.

    Source: RFC 9110, §10.2.3.
    """
    told = headers.get("retry-after", "")
    try:
        return float(told) if told.replace(".", "", 1).isdigit() else (_date(told) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0


def _date(told: str) -> datetime:
    found = parsedate_to_datetime(told)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _stop(status: int, fault: str, settings: EndpointConfig, attempt: int) -> None:
    """Raise where another try cannot help."""
    if status in (401, 403):
        has_key = f"the key in {settings.key_variable}" if settings.key_variable else "requests without a key"
        raise RefusedError(
            f"{settings.url} must accept {has_key}; it refused, {fault}. Set key_variable to an environment variable that holds a "
            "valid key."
        )
    if status == 404:
        raise RefusedError(
            f"{settings.url}/chat/completions must exist and know the model {settings.model!r}; got {fault}. Correct the url or "
            "the model of the endpoint."
        )
    if 300 <= status < 400:
        raise RefusedError(f"{settings.url} must answer itself; it points elsewhere, {fault}. Set url to where it points.")
    if status < 500 and status not in PASSING:
        raise UnansweredError(fault, attempt)


def _answer(response: httpx2.Response) -> dict[str, Any] | None:
    """The body if it has the shape of a chat completion."""
    try:
        body = response.json()
        return body if isinstance(body["choices"][0]["message"], dict) and isinstance(body.get("usage") or {}, dict) else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _words(response: httpx2.Response, key: str | None) -> str:
    """What the server says, in one short line without the key."""
    try:
        told = response.json()
        error = told.get("error", told) if isinstance(told, dict) else told
        words = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, RecursionError):
        words = response.text
    words = " ".join(words.split())
    return (words.replace(key, "…") if key else words)[:SHOWN_CHARACTERS] or "no reason given"
