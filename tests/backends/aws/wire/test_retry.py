"""Standard retry mode: what is tried again, how often, after what wait, and what else it takes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime

import botocore.session
import pytest
import trio
from botocore.credentials import Credentials
from botocore.retries import standard
from hypothesis import given
from hypothesis import strategies as st

from task_queue_engine.backends.aws.wire.errors import (
    AwsRequestFailed,
    CredentialsUnusable,
    Throttled,
)
from task_queue_engine.backends.aws.wire.retry import FailureKind, RetryQuota, backoff, classify
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import BackendUnavailable
from tests.backends.aws.wire.canned import CLOSE, Answer, answer, error
from tests.backends.aws.wire.opened_client import delete, elapsed_since, opened, put, receive

_NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def _date(at: datetime) -> str:
    return format_datetime(at, usegmt=True)


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        (CLOSE, 0.025),
        (error("InternalServerError", status=500), 0.025),
        (error("InternalFailure", status=500), 0.025),
        (error("", status=503), 0.025),
        (answer(body=b"<html>", status=504), 0.025),
        (error("RequestTimeout"), 0.025),
        (error("Something", status=429), 0.025),
        (error("ThrottlingException"), 1),
        (error("ProvisionedThroughputExceededException"), 1),
        (error("RequestLimitExceeded"), 1),
        (error("ThrottlingException", status=503), 1),
        (error("", status=429), 1),
        (answer(body=b"slow down", status=429), 1),
    ],
)
async def test_passing_trouble_is_waited_out(server, virtual_clock, said, wait):
    server.script.extend([said, answer({"n": 1})])
    async with opened(server.url, virtual_clock) as client:
        start = trio.current_time()
        assert await put(client) == {"n": 1}
        assert elapsed_since(start) == pytest.approx(wait)


@pytest.mark.parametrize(
    "code", ["ConditionalCheckFailedException", "ValidationException", "AccessDeniedException"]
)
async def test_what_would_fail_again_is_not_tried_again(server, virtual_clock, code):
    server.default = error(code)
    async with opened(server.url, virtual_clock) as client:
        with pytest.raises(AwsRequestFailed):
            await put(client)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("call", "attempts", "waited"),
    [(delete, 3, 0.05 + 0.1), (receive, 3, 0.05 + 0.1), (put, 4, 0.025 + 0.05 + 0.1)],
)
async def test_waits_double_and_attempts_end(server, virtual_clock, call, attempts, waited):
    server.default = error("InternalFailure", "it hurts", status=500)
    async with opened(server.url, virtual_clock) as client:
        start = trio.current_time()
        with pytest.raises(BackendUnavailable, match="InternalFailure: it hurts"):
            await call(client)
        assert elapsed_since(start) == pytest.approx(waited)
    assert len(server.requests) == attempts


async def test_throttling_that_does_not_end(server, virtual_clock):
    server.default = error("ThrottlingException", "Rate exceeded")
    async with opened(server.url, virtual_clock) as client:
        start = trio.current_time()
        with pytest.raises(Throttled, match="ThrottlingException: Rate exceeded") as caught:
            await put(client)
        assert elapsed_since(start) == pytest.approx(1 + 2 + 4)
        assert caught.value.retry_after == 8
        assert client.statistics().operations["dynamodb", "PutItem"].throttles == 4


async def test_each_attempt_is_signed_anew(server, virtual_clock):
    clock = ManualClock(_NOON)

    def later(_: object):
        clock.advance(60)
        return error("InternalFailure", status=500)

    server.default = later
    async with opened(server.url, virtual_clock, clock=clock) as client:
        with pytest.raises(BackendUnavailable):
            await delete(client)
    times = [request.signed_for for request in server.requests]
    assert times == [_NOON.timestamp() + 60 * n for n in range(3)]


@pytest.mark.parametrize(
    ("asked", "waited"), [("300", 0.3), ("3600000", 5.05), ("0", 0.05), ("soon", 0.05)]
)
async def test_the_service_may_ask_for_a_longer_wait(server, virtual_clock, asked, waited):
    server.script.append(error("InternalFailure", status=500, x_amz_retry_after=asked))
    async with opened(server.url, virtual_clock) as client:
        start = trio.current_time()
        await delete(client)
        assert elapsed_since(start) == pytest.approx(waited)


async def test_no_retry_that_the_timeout_would_not_let_happen(server, virtual_clock):
    server.default = error("ThrottlingException")
    async with opened(server.url, virtual_clock) as client:
        start = trio.current_time()
        with pytest.raises(Throttled):
            await put(client, timeout=2.5)
        assert elapsed_since(start) == pytest.approx(1)


async def test_a_service_in_long_trouble_is_not_asked_twice_each_time(server, virtual_clock):
    server.default = error("InternalFailure", status=500)
    async with opened(server.url, virtual_clock, drawn=0) as client:
        for _ in range(40):
            with pytest.raises(BackendUnavailable):
                await delete(client)
        spent = len(server.requests)
        assert spent == 40 + 500 // 14  # the bucket is empty
        with pytest.raises(BackendUnavailable):
            await delete(client)
        assert len(server.requests) == spent + 1
        # Long polls and the other service have buckets of their own.
        with pytest.raises(BackendUnavailable):
            await receive(client)
        with pytest.raises(BackendUnavailable):
            await put(client)
        assert len(server.requests) == spent + 1 + 3 + 4


async def test_success_fills_the_bucket_again(server, virtual_clock):
    async with opened(server.url, virtual_clock, drawn=0) as client:
        for _ in range(100):  # more than the bucket has tokens for
            server.script.extend([error("InternalFailure", status=500), answer({"n": 1})])
            assert await delete(client) == {"n": 1}


def test_quota():
    quota = RetryQuota(capacity=20)
    assert quota.take(FailureKind.THROTTLED) == 5
    assert quota.take(FailureKind.TRANSIENT) == 14
    assert quota.take(FailureKind.THROTTLED) is None
    quota.give_back(14)
    quota.give_back(None)
    assert quota.capacity == 16
    for _ in range(1000):
        quota.give_back(None)
    assert quota.capacity == 500


@given(
    st.sampled_from(["sqs", "dynamodb"]),
    st.sampled_from([FailureKind.TRANSIENT, FailureKind.THROTTLED]),
    st.integers(1, 50),
    st.none() | st.floats(0, 1e6),
    st.randoms(use_true_random=False),
)
def test_waits_are_bounded(service, kind, attempt, asked, rng):
    bound = min(20, (1 if kind is FailureKind.THROTTLED else 0.05) * 2.0 ** (attempt - 1))
    assert 0 <= backoff(service, kind, attempt, rng, retry_after=asked) <= bound + 5


def test_waits_are_spread_over_the_whole_range():
    rng = random.Random(1)
    drawn = [backoff("sqs", FailureKind.THROTTLED, 3, rng) for _ in range(1000)]
    assert 0 <= min(drawn) < 0.2
    assert 3.8 < max(drawn) <= 4


def test_the_kinds_agree_with_botocore():
    """Whatever botocore's standard mode retries we retry, and as the same kind."""
    for code in standard.ThrottledRetryableChecker._THROTTLED_ERROR_CODES:
        if code != "EC2ThrottledException":
            assert classify(400, code, "") is FailureKind.THROTTLED, code
    for code in standard.TransientRetryableChecker._TRANSIENT_ERROR_CODES:
        assert classify(400, code, "") in (FailureKind.TRANSIENT, FailureKind.THROTTLED), code
    for status in standard.TransientRetryableChecker._TRANSIENT_STATUS_CODES:
        assert classify(status, "", "") is FailureKind.TRANSIENT
    for code in _errors_modelled_as_retryable():
        assert classify(400, code, "") in (FailureKind.TRANSIENT, FailureKind.THROTTLED), code


def _errors_modelled_as_retryable() -> Iterator[str]:
    session = botocore.session.Session()
    for service in ("sqs", "dynamodb"):
        for shape in session.get_service_model(service).error_shapes:
            if shape.metadata.get("retryable") is not None:
                yield shape.metadata.get("error", {}).get("code") or shape.name


# --- clocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("RequestTimeTooSkewed", ""),
        ("RequestExpired", ""),
        ("InvalidSignatureException", "Signature expired: 20300101T120000Z is now earlier than"),
        ("InvalidSignatureException", "Signature not yet current: 20300101T120000Z is still later"),
        ("SignatureDoesNotMatch", "no word of the time"),
        ("AuthFailure", "no word of the time"),
    ],
)
async def test_a_wrong_clock_is_corrected(server, virtual_clock, code, message):
    clock = ManualClock(_NOON)
    hour = _NOON.timestamp() + 3600
    there = _date(datetime.fromtimestamp(hour, UTC))
    server.script.append(error(code, message, status=403, date=there))
    async with opened(server.url, virtual_clock, clock=clock) as client:
        await put(client)
        assert server.requests[-1].signed_for == hour
        clock.advance(5)
        await delete(client)  # the other service profits from it
        assert server.requests[-1].signed_for == hour + 5
        assert client.statistics().clock_offset == pytest.approx(3600)
    assert len(server.requests) == 3


async def test_calls_in_flight_when_the_clock_is_corrected(server, virtual_clock):
    there = _date(datetime.fromtimestamp(_NOON.timestamp() + 3600, UTC))

    def strict(request):
        if abs(request.signed_for - _NOON.timestamp() - 3600) > 300:
            return error("InvalidSignatureException", "Signature expired", date=there)
        return answer()

    server.default = strict
    async with (
        opened(server.url, virtual_clock, clock=ManualClock(_NOON)) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(8):
            nursery.start_soon(put, client)
    assert len(server.requests) == 16


async def test_a_wrong_signature_is_not_blamed_on_a_good_clock(server, virtual_clock):
    server.default = error("SignatureDoesNotMatch", status=403, date=_date(_NOON))
    clock = ManualClock(_NOON)
    clock.advance(30)
    async with opened(server.url, virtual_clock, clock=clock) as client:
        with pytest.raises(AwsRequestFailed):
            await put(client)
        assert client.statistics().clock_offset == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize("date", ["", "yesterday", "Tue, 99 Jan 2030 12:00:00 GMT"])
async def test_skew_without_a_time_to_correct_it_by(server, virtual_clock, date):
    server.default = error("RequestExpired", date=date)
    async with opened(server.url, virtual_clock) as client:
        with pytest.raises(BackendUnavailable, match="RequestExpired"):
            await put(client)
        assert client.statistics().clock_offset == 0
    assert len(server.requests) == 4


# --- credentials ------------------------------------------------------------------------------


class Vault:
    """Where credentials come from, and what is in it now."""

    def __init__(self, key: str = "AKID", secret: str = "secret") -> None:
        self.current: Credentials | Exception | None = Credentials(key, secret)
        self.asked = 0

    def __call__(self) -> Credentials | None:
        self.asked += 1
        if isinstance(self.current, Exception):
            raise self.current
        return self.current


_NEW = Credentials("AKID2", "secret2")


def _only_the_new(request):
    if "AKID2" in request.headers["authorization"]:
        return answer({"n": 1})
    return error("ExpiredTokenException", "The security token included in the request is expired")


async def test_expired_credentials_are_replaced(server, virtual_clock):
    vault = Vault()
    server.default = _only_the_new
    async with opened(server.url, load_credentials=vault) as client:
        vault.current = _NEW
        virtual_clock.rate = 1  # the retry's wait; a jump could overtake the thread
        assert await put(client) == {"n": 1}
    assert vault.asked == 2


async def test_expired_credentials_are_waited_for(server, virtual_clock):
    vault = Vault()
    server.default = _only_the_new
    async with opened(server.url, load_credentials=vault, drawn=0) as client:
        with pytest.raises(CredentialsUnusable, match="token included in the request is expired"):
            await put(client)
        assert vault.asked == 2
        vault.current = _NEW
        with pytest.raises(CredentialsUnusable):
            await put(client)
        assert vault.asked == 2  # not more often than every five seconds
        virtual_clock.jump(5)
        assert await put(client) == {"n": 1}
    assert vault.asked == 3


@pytest.mark.parametrize(
    "code", ["UnrecognizedClientException", "InvalidClientTokenId", "SignatureDoesNotMatch"]
)
async def test_credentials_that_somebody_replaced(server, virtual_clock, code):
    vault = Vault()
    server.default = lambda request: (
        answer({"n": 1}) if "AKID2" in request.headers["authorization"] else error(code)
    )
    async with opened(server.url, load_credentials=vault, drawn=0) as client:
        vault.current = _NEW
        assert await put(client) == {"n": 1}


async def test_wrong_credentials(server, virtual_clock):
    vault = Vault(secret="not the one")
    async with opened(server.url, load_credentials=vault, drawn=0) as client:
        with pytest.raises(AwsRequestFailed) as caught:
            await put(client)
    assert caught.value.code == "SignatureDoesNotMatch"


async def test_no_others_to_be_had(server, virtual_clock):
    vault = Vault()
    server.default = _only_the_new
    async with opened(server.url, load_credentials=vault, drawn=0) as client:
        vault.current = RuntimeError("the vault is locked\nand more")
        with pytest.raises(CredentialsUnusable, match=r"the vault is locked$"):
            await put(client)


async def test_many_calls_reload_once(server, virtual_clock):
    vault = Vault()
    server.default = _only_the_new
    async with opened(server.url, load_credentials=vault, drawn=0) as client:
        vault.current = _NEW
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(put, client)
    assert vault.asked == 2


async def test_calls_refused_late_take_what_others_have_loaded(server, virtual_clock):
    vault = Vault()
    late = error("ExpiredTokenException")
    server.script.append(Answer(late.data, delay=10))
    server.default = _only_the_new
    async with (
        opened(server.url, load_credentials=vault, drawn=0) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(put, client)
        await server.arrived.wait()
        vault.current = _NEW
        await put(client)
        assert vault.asked == 2
        virtual_clock.jump(10)
    assert vault.asked == 2
    assert "AKID2" in server.requests[-1].headers["authorization"]


async def test_files_are_read_again(server, virtual_clock, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    file.write_text(text.format("AKID", "secret"))
    server.default = _only_the_new
    async with opened(server.url, drawn=0, by_itself=True) as client:
        file.write_text(text.format("AKID2", "secret2"))
        assert await put(client) == {"n": 1}
