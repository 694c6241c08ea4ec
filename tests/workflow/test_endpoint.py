"""The client of chat endpoints against a real server: order, further tries, refusals in plain words, the key kept to itself."""

import logging
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from chat_server import Answer, Asked, chat_server, completion

from workflow.config.endpoint import EndpointConfig
from workflow.config.section import ConfigError
from workflow.endpoint import Counts, Endpoint, Reply
from workflow.endpoint_requests import wait_s

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SAEDRIFT_TEST_KEY", KEY)


def settings(url: str, **others: Any) -> EndpointConfig:
    return EndpointConfig(**({"url": url, "model": "m", "backoff_s": 0.01, "retries": 2, "timeout_s": 5.0} | others))


def asked(url: str, questions: int = 1, wants_json: bool = False, **others: Any) -> tuple[list[Reply], Counts]:
    with Endpoint(settings(url, **others)) as endpoint:
        turns = [[{"role": "user", "content": str(number)}] for number in range(questions)]
        return list(endpoint.ask(turns, wants_json=wants_json)), endpoint.counts


def test_replies_come_in_the_order_of_the_questions_and_tokens_are_summed() -> None:
    def answer(request: Asked, _: int) -> Answer:
        number = int(request.question)
        return completion(f"answer {number}", number, 1)._replace(slow_s=0.02 * (9 - number))

    with chat_server(answer) as server:
        replies, counts = asked(server.url, 10, concurrency=4)
    assert [reply.text for reply in replies] == [f"answer {number}" for number in range(10)]
    assert counts == Counts(questions=10, unanswered=0, unreadable=0, retries=0, tokens_in=45, tokens_out=10)


def test_a_request_is_greedy_names_its_model_and_carries_the_key() -> None:
    with chat_server(lambda *_: completion("{}")) as server:
        body = {"max_tokens": None, "n": 1}
        asked(f"{server.url}/chat/completions", key_variable="SAEDRIFT_TEST_KEY", body=body, wants_json=True)
    (request,) = server.asked
    assert (request.path, request.key) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert request.body == {
        "model": "m", "temperature": 0, "n": 1, "response_format": {"type": "json_object"},
        "messages": [{"role": "user", "content": "0"}],
    }  # fmt: skip


def test_no_more_requests_are_under_way_than_allowed_and_questions_are_read_as_replies_are_taken() -> None:
    read: list[int] = []

    def questions() -> Iterator[list[dict[str, str]]]:
        for number in range(100):
            read.append(number)
            yield [{"role": "user", "content": str(number)}]

    with chat_server(lambda *_: completion("yes")) as server, Endpoint(settings(server.url, concurrency=2)) as endpoint:
        replies = endpoint.ask(questions())
        next(replies)
        assert len(read) <= 5
        replies.close()
    assert len(server.asked) <= 5


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_failure_is_tried_again(status: int) -> None:
    with chat_server(lambda _, before: Answer(status, {"error": "busy"}) if before == 0 else completion("done")) as server:
        replies, counts = asked(server.url, 3)
    assert [reply.text for reply in replies] == ["done"] * 3
    assert counts.retries == 3


def test_the_server_may_ask_for_a_longer_wait() -> None:
    busy = Answer(429, {"error": "busy"}, headers=(("Retry-After", "1"),))
    started = time.monotonic()
    with chat_server(lambda _, before: busy if before == 0 else completion("done")) as server:
        asked(server.url)
    assert time.monotonic() - started >= 1


def test_waits_double_up_to_their_limit() -> None:
    given = settings("http://h", backoff_s=1.0, max_backoff_s=10.0)
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=7), usegmt=True)
    assert [wait_s(attempt, {}, given) for attempt in range(5)] == [1, 2, 4, 8, 10]
    assert [wait_s(0, {"retry-after": told}, given) for told in ("3", "2.5", "3600", "soon", "-3")] == [3, 2.5, 10, 1, 1]
    assert wait_s(0, {"retry-after": soon}, given) == pytest.approx(6.5, abs=1)


def test_a_question_that_fails_in_every_try_is_left_without_text_and_counted() -> None:
    with chat_server(lambda request, _: Answer(500, "broken") if request.question == "1" else completion("done")) as server:
        replies, counts = asked(server.url, 3)
    assert [reply.text for reply in replies] == ["done", None, "done"]
    assert replies[1].fault == "status 500: broken"
    assert (counts.unanswered, counts.retries) == (1, 2)


@pytest.mark.parametrize("body", ["<html>hello</html>", "[]", '{"choices": []}', '{"choices": [{"message": "x"}]}', "[" * 100_000])
def test_garbage_is_no_answer(body: str) -> None:
    with chat_server(lambda request, _: Answer(body=body) if request.question == "1" else completion("done")) as server:
        replies, _ = asked(server.url, 2)
    assert replies[1].fault == "what came back is no answer of a chat endpoint"


def test_a_slow_answer_is_asked_for_again() -> None:
    with chat_server(lambda _, before: completion("done")._replace(slow_s=0.0 if before else 1.0)) as server:
        replies, counts = asked(server.url, timeout_s=0.2)
    assert (replies[0].text, counts.retries) == ("done", 1)


def test_a_request_that_is_too_long_is_not_tried_again() -> None:
    refusal = Answer(400, {"error": {"message": "too long"}})
    with chat_server(lambda request, _: refusal if request.question == "0" else completion("x")) as server:
        replies, counts = asked(server.url, 2)
    assert (replies[0].fault, counts.retries, len(server.asked)) == ("status 400: too long", 0, 2)


@pytest.mark.parametrize(
    ("text", "data", "fault"),
    [
        ('{"a": 1}', {"a": 1}, None),
        ('```json\n{"a": 1}\n```', {"a": 1}, None),
        ("I think yes", None, "the answer is not JSON"),
        ('{"a": 1', None, "the answer is not JSON"),
    ],
)
def test_json_is_read_and_what_is_none_is_counted(text: str, data: Any, fault: str | None) -> None:
    with chat_server(lambda *_: completion(text)) as server:
        replies, counts = asked(server.url, wants_json=True)
    assert (replies[0].text, replies[0].data, replies[0].fault) == (text, data, fault)
    assert counts.unreadable == (fault is not None)


def test_an_empty_answer_is_none() -> None:
    with chat_server(lambda request, _: completion(None if request.question == "0" else "x")) as server:
        replies, counts = asked(server.url, 2)
    assert (replies[0].text, replies[0].fault) == (None, "an empty answer, finish_reason stop")
    assert (counts.unanswered, counts.tokens_in) == (1, 6)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "must accept the key in SAEDRIFT_TEST_KEY; it refused, status 401: wrong key …"),
        (403, "must accept the key"),
        (404, "know the model 'm'"),
        (302, "points elsewhere"),
    ],
)
def test_what_cannot_be_mended_ends_everything_without_telling_the_key(
    status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = Answer(status, {"error": {"message": f"wrong key {KEY}"}})
    with (
        caplog.at_level(logging.DEBUG),
        chat_server(lambda *_: refusal) as server,
        pytest.raises(ConfigError, match=message) as raised,
    ):
        asked(server.url, key_variable="SAEDRIFT_TEST_KEY")
    assert KEY not in str(raised.value) + caplog.text
    assert len(server.asked) == 1


def test_no_route_is_said_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(ConfigError, match=r"must be in reach; in 3 tries it was not: ConnectError"):
            asked(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")


def test_an_endpoint_that_answers_nothing_is_given_up_soon() -> None:
    with (
        chat_server(lambda *_: Answer(400, {"error": {"message": "no such model"}})) as server,
        pytest.raises(ConfigError, match="of 20 questions it answered none, the first fault: status 400: no such model"),
    ):
        asked(server.url, 500)
    assert len(server.asked) < 40


def test_a_key_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAEDRIFT_TEST_KEY")
    with pytest.raises(ConfigError, match="SAEDRIFT_TEST_KEY must hold the key of the endpoint; it is not set"):
        Endpoint(settings("http://h", key_variable="SAEDRIFT_TEST_KEY"))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "http://u:p@h", "http://h/v1?api-key=x", "http://h:port"])
def test_addresses_that_cannot_be_or_hold_secrets_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"[Tt]he url of an endpoint must"):
        settings(url)
