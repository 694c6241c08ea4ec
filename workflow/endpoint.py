"""Questions to a language model behind an OpenAI-compatible chat endpoint: in order, retried, counted.

What no further try can mend (a refused key, an unknown model, no route to the server) ends everything with a ConfigError. What
concerns one question (no answer in time, an answer that is no answer) leaves that question without text, and is counted.
"""

import json
import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import httpx2

from workflow.config.endpoint import EndpointConfig
from workflow.config.section import ConfigError
from workflow.endpoint_requests import RefusedError, UnansweredError, post

log = logging.getLogger(__name__)

Messages = Sequence[Mapping[str, str]]
"""The turns of one question, `role` and `content` each."""

PATIENCE = 20
"""After so many questions without a single answer no more are asked."""

_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*?)```\s*", re.DOTALL)


class Reply(NamedTuple):
    """What came back for one question."""

    text: str | None
    """The answer, None where there is none."""
    data: Any
    """The JSON value of the answer where JSON was asked for and the answer is JSON, else None."""
    fault: str | None
    """Why there is no text, or no data where JSON was asked for; None where nothing is wrong."""
    tokens_in: int
    """Tokens of the question, 0 where the server does not tell."""
    tokens_out: int
    """Tokens of the answer, those that the server counts as reasoning included."""


class Counts(NamedTuple):
    """Everything that was asked so far."""

    questions: int
    """Questions whose replies were given out."""
    unanswered: int
    """Of these, without text."""
    unreadable: int
    """Of these, with a text that is not the JSON that was asked for."""
    retries: int
    """Further tries of all requests."""
    tokens_in: int
    """Sum of the questions' tokens."""
    tokens_out: int
    """Sum of the answers' tokens."""


class Endpoint:
    """A connection, to be closed: `with Endpoint(settings) as endpoint: …`."""

    def __init__(self, settings: EndpointConfig) -> None:
        """Read the key; nothing is sent yet.

        Raises:
            ConfigError: the environment variable of the key is not set, or holds what no header can carry.
        """
        self._settings, self._key, self._counted = settings, _key(settings.key_variable), Counter[str]()
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line per request otherwise
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=settings.concurrency)
        self._client = httpx2.Client(headers=headers, timeout=settings.timeout_s, limits=limits, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def counts(self) -> Counts:
        """What was asked so far."""
        return Counts(**{name: self._counted[name] for name in Counts._fields})

    def ask(self, questions: Iterable[Messages], *, wants_json: bool = False) -> Iterator[Reply]:
        """The replies to the questions, in their order whatever came back first, at temperature 0.

        Args:
            questions: read as replies are taken, a few ahead.
            wants_json: each answer is to be one JSON value; a fence of Markdown around it is taken off.

        Raises:
            ConfigError: the key is refused, the model or the address is unknown, or there is no route; or no question at all was
                answered, with the first fault.
        """
        asked, answered, first_fault = 0, 0, None
        for reply in self._in_order(questions, wants_json):
            asked, answered = asked + 1, answered + (reply.text is not None)
            first_fault = first_fault or reply.fault
            if answered or asked < PATIENCE:
                yield reply
            else:
                break
        log.info("endpoint: %d of %d questions answered, %d further tries", answered, asked, self._counted["retries"])
        if asked and not answered:
            raise ConfigError(
                f"{self._settings.url} must answer chat requests of the model {self._settings.model}; of {asked} questions it "
                f"answered none, the first fault: {first_fault}. Check the address and the server's log."
            )

    def _in_order(self, questions: Iterable[Messages], wants_json: bool) -> Iterator[Reply]:
        pool, under_way = ThreadPoolExecutor(self._settings.concurrency), deque[Future[tuple[Reply, int]]]()
        try:
            for question in questions:
                under_way.append(pool.submit(self._reply, question, wants_json))
                if len(under_way) >= 2 * self._settings.concurrency:
                    yield self._count(*under_way.popleft().result(), wants_json)
            while under_way:
                yield self._count(*under_way.popleft().result(), wants_json)
        finally:
            pool.shutdown(cancel_futures=True)

    def _count(self, reply: Reply, retries: int, wants_json: bool) -> Reply:
        unanswered = reply.text is None
        self._counted.update(
            questions=1, unanswered=unanswered, unreadable=wants_json and not unanswered and reply.fault is not None,
            retries=retries, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out,
        )  # fmt: skip
        return reply

    def _reply(self, question: Messages, wants_json: bool) -> tuple[Reply, int]:
        """The reply to one question and how many further tries it took."""
        try:
            answer, retries = post(self._client, self._body(question, wants_json), self._settings, self._key)
        except UnansweredError as failed:
            return Reply(None, None, str(failed), 0, 0), failed.retries
        except RefusedError as refused:
            raise ConfigError(str(refused)) from None
        told = answer.get("usage") or {}
        tokens = (_whole(told.get("prompt_tokens")), _whole(told.get("completion_tokens")))
        choice = answer["choices"][0]
        text = choice["message"].get("content")
        if not isinstance(text, str) or not text.strip():
            return Reply(None, None, f"an empty answer, finish_reason {choice.get('finish_reason')}", *tokens), retries
        data, fault = _parsed(text) if wants_json else (None, None)
        return Reply(text, data, fault, *tokens), retries

    def _body(self, question: Messages, wants_json: bool) -> dict[str, Any]:
        settings = self._settings
        body: dict[str, Any] = {
            "model": settings.model, "messages": [dict(turn) for turn in question], "temperature": 0,
            "max_tokens": settings.max_tokens,
        }  # fmt: skip
        if wants_json and settings.json_mode:
            body["response_format"] = {"type": "json_object"}
        return {name: value for name, value in (body | settings.body).items() if value is not None}


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        state = "is not set" if not key else "holds characters that no key has"
        raise ConfigError(
            f"The environment variable {variable} must hold the key of the endpoint; it {state}. Export it where snakemake is "
            "called, or set key_variable to null for a server that asks for no key."
        )
    return key


def _whole(told: Any) -> int:
    return told if isinstance(told, int) else 0


def _parsed(text: str) -> tuple[Any, str | None]:
    """The JSON value of an answer, and what is wrong with it."""
    fenced = _FENCED.fullmatch(text)
    try:
        return json.loads(fenced[1] if fenced else text), None
    except (ValueError, RecursionError):
        return None, "the answer is not JSON"
