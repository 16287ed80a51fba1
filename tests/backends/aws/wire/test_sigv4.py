"""Signatures: AWS's published vectors, and whatever hypothesis finds against botocore's signer."""

from __future__ import annotations

import datetime
from hashlib import sha256
from unittest import mock

import botocore.credentials
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from hypothesis import given
from hypothesis import strategies as st

from task_queue_engine.backends.aws.wire.sigv4 import Credentials, Signer, canonical_request

# "AWS Signature Version 4 test suite": key, time and service are the same in every vector.
_KEYS = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
_AT = datetime.datetime(2015, 8, 30, 12, 36, tzinfo=datetime.UTC).timestamp()
_HOST = ("Host", "example.amazonaws.com")
_LONG_TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfI"
    "eoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0"
    "wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDry"
    "pNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
_FORM = b"Param1=value1"
_FORM_HASH = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"

# name, method, headers, body, token, signature
_VECTORS = [
    ("get-vanilla", "GET", [_HOST], b"", None,
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    ("get-vanilla-with-session-token", "GET", [_HOST], b"",
     "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
     "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"),
    ("get-header-key-duplicate", "GET",
     [_HOST, ("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")], b"",
     None, "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"),
    ("get-header-value-multiline", "GET",
     [_HOST, ("My-Header1", "value1\n  value2\n     value3")], b"", None,
     "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd"),
    ("get-header-value-order", "GET",
     [_HOST, ("My-Header1", "value4"), ("My-Header1", "value1"), ("My-Header1", "value3"),
      ("My-Header1", "value2")], b"", None,
     "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"),
    ("get-header-value-trim", "GET",
     [_HOST, ("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')], b"", None,
     "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
    ("post-vanilla", "POST", [_HOST], b"", None,
     "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ("post-header-key-sort", "POST", [_HOST, ("My-Header1", "value1")], b"", None,
     "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"),
    ("post-header-value-case", "POST", [_HOST, ("My-Header1", "VALUE1")], b"", None,
     "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"),
    ("post-sts-header-before", "POST", [_HOST], b"", _LONG_TOKEN,
     "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
    ("post-x-www-form-urlencoded", "POST",
     [("Content-Type", "application/x-www-form-urlencoded"), _HOST, ("Content-Length", "13"),
      ("x-amz-content-sha256", _FORM_HASH)], _FORM, None,
     "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"),
    ("post-x-www-form-urlencoded-parameters", "POST",
     [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"), _HOST,
      ("Content-Length", "13"), ("x-amz-content-sha256", _FORM_HASH)], _FORM, None,
     "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "headers", "body", "token", "signature"),
    [vector[1:] for vector in _VECTORS],
    ids=[vector[0] for vector in _VECTORS],
)
def test_published_vector(method, headers, body, token, signature):
    signer = Signer(service="service", region="us-east-1")
    added = dict(
        signer.sign(
            Credentials(*_KEYS, token), at=_AT, method=method, path="/", headers=headers, body=body
        )
    )
    assert added["X-Amz-Date"] == "20150830T123600Z"
    assert added.get("X-Amz-Security-Token") == token
    assert added["Authorization"].startswith(
        "AWS4-HMAC-SHA256 "
        "Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders="
    )
    assert added["Authorization"].endswith(f", Signature={signature}")


def test_canonical_form_of_a_published_vector():
    headers = [("Host", "example.amazonaws.com"), ("My-Header1", "value1\n  value2\n     value3")]
    canonical, signed = canonical_request("GET", "/", headers, sha256(b"").hexdigest())
    assert canonical == (
        "GET\n/\n\nhost:example.amazonaws.com\nmy-header1:value1 value2 value3\n\nhost;my-header1\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert signed == "host;my-header1"


_words = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
_names = st.from_regex(r"X-Amz-[A-Za-z0-9-]{1,12}", fullmatch=True).filter(
    lambda name: name.lower() not in ("x-amz-date", "x-amz-security-token", "x-amz-content-sha256")
)
_keys = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", min_size=1)
_times = st.integers(0, 2**32).map(lambda at: datetime.datetime.fromtimestamp(at, datetime.UTC))


@given(
    headers=st.dictionaries(_names, _words, max_size=5),
    body=st.binary(max_size=300),
    key=_keys,
    secret=_keys,
    token=st.none() | _keys,
    region=st.sampled_from(["eu-central-1", "us-gov-west-1", "local"]),
    service=st.sampled_from(["sqs", "dynamodb"]),
    times=st.lists(_times, min_size=1, max_size=3),
    path=st.sampled_from(["/", "/base", "/base/~x_y.z-1/"]),
)
def test_the_same_as_botocore(headers, body, key, secret, token, region, service, times, path):
    # Unlike AWS's signers a dict of botocore's keeps only one of two headers that differ in case.
    if len({name.lower() for name in headers}) < len(headers):
        return
    signer = Signer(service=service, region=region)
    host = f"{service}.{region}.amazonaws.com"
    reference = SigV4Auth(botocore.credentials.Credentials(key, secret, token), service, region)
    for time in times:  # one signer for all: nothing it keeps may go stale
        request = AWSRequest("POST", f"https://{host}{path}", data=body, headers=dict(headers))
        with mock.patch("botocore.auth.get_current_datetime", return_value=time):
            reference.add_auth(request)
        added = signer.sign(
            Credentials(key, secret, token),
            at=time.timestamp() + 0.5,
            method="POST",
            path=path,
            headers=[("Host", host), *headers.items()],
            body=body,
        )
        assert dict(added) == {
            name: request.headers[name]
            for name in ("X-Amz-Date", "X-Amz-Security-Token", "Authorization")
            if name in request.headers
        }


def test_new_credentials_are_used_at_once():
    signer = Signer(service="sqs", region="eu-central-1")

    def signature(secret):
        return signer.sign(
            Credentials("AKID", secret), at=_AT, method="POST", path="/", headers=[_HOST], body=b""
        )

    assert signature("one") != signature("two")


def test_secrets_stay_out_of_representations():
    shown = repr(Credentials("AKID", "my secret", "my token"))
    assert "my secret" not in shown
    assert "my token" not in shown
