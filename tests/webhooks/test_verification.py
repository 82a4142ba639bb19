"""Signatures, with Svix' own library as the judge of ours."""

import base64
import time
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from svix.webhooks import Webhook, WebhookVerificationError

from tests.webhooks.conftest import POSTMARK_SECRETS, RESEND_SECRETS, basic, signed
from webhooks.exceptions import Rejected
from webhooks.providers import Incoming, resend
from webhooks.providers.proofs import basic_auth

BODY = b'{"type":"email.delivered"}'


def accepts(headers, body=BODY, secrets=RESEND_SECRETS):
    try:
        resend.verify(Incoming({name.casefold(): value for name, value in headers.items()}, body), secrets)
    except Rejected:
        return False
    return True


def library_accepts(headers, body=BODY, secret=RESEND_SECRETS[0]):
    try:
        Webhook(secret).verify(body, headers)
    except (WebhookVerificationError, ArithmeticError, ValueError):  # the latter for headers it cannot read
        return False
    return True


@limits(max_examples=150, deadline=None)
@given(
    svix_id=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60),
    key=st.binary(min_size=1, max_size=64),
    text=st.text(max_size=200),
)
@example(svix_id="msg_p5jXN8AQM9LWM0D4loKWxJek", key=b"\x00", text="")
def test_svix_what_the_library_signs_is_accepted(svix_id, key, text):
    secret = "whsec_" + base64.b64encode(key).decode()
    body = text.encode("utf-8", "surrogatepass") if text.isprintable() else text.encode("ascii", "replace")

    assert accepts(signed(body, svix_id=svix_id, secret=secret), body, [secret])


@limits(max_examples=150, deadline=None)
@given(position=st.integers(0, len(BODY) - 1), byte=st.integers(0, 255))
def test_svix_one_byte_of_the_body_decides(position, byte):
    changed = BODY[:position] + bytes([byte]) + BODY[position + 1 :]

    assert accepts(signed(BODY), changed) == (changed == BODY)


@limits(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(["svix-id", "svix-timestamp", "svix-signature"]))
def test_svix_headers_that_the_library_refuses_are_refused(data, name):
    headers = signed(BODY, svix_id="msg_1")
    headers[name] = data.draw(st.text(st.characters(max_codepoint=255), max_size=60), label="value")

    assert not library_accepts(headers)
    assert not accepts(headers)


@pytest.mark.parametrize("name", ["svix-id", "svix-timestamp", "svix-signature"])
def test_svix_without_one_of_its_headers_is_refused(name):
    headers = signed(BODY)
    del headers[name]

    assert not accepts(headers)


@pytest.mark.parametrize("offset", [-3600, -301, 302, 3600])
def test_svix_stale_or_future_timestamp_is_refused(offset):
    headers = signed(BODY, timestamp=int(time.time()) + offset)

    assert not accepts(headers)
    assert not library_accepts(headers)


@pytest.mark.parametrize("offset", [-280, 0, 280])
def test_svix_timestamp_within_five_minutes_is_accepted(offset):
    headers = signed(BODY, timestamp=int(time.time()) + offset)

    assert accepts(headers)
    assert library_accepts(headers)


@pytest.mark.parametrize("timestamp", ["", "-1", "1e9", "nan", "٣", "9" * 5000, "0x10", " 1"])
def test_svix_timestamp_that_is_no_number_is_refused(timestamp):
    assert not accepts({**signed(BODY), "svix-timestamp": timestamp})


@pytest.mark.parametrize("secret", RESEND_SECRETS)
def test_svix_either_secret_is_accepted_during_rotation(secret):
    assert accepts(signed(BODY, secret=secret))


def test_svix_another_secret_is_refused():
    assert not accepts(signed(BODY, secret="whsec_c29tZWJvZHkgZWxzZSdz"))


def test_svix_one_good_signature_among_several_is_enough():
    headers = signed(BODY)
    headers["svix-signature"] = f"v1,bm90IHRoaXMgb25l v2,unknown {headers['svix-signature']} v1a,other"

    assert accepts(headers)
    assert library_accepts(headers)


def test_svix_signature_of_another_version_is_refused():
    headers = signed(BODY)
    headers["svix-signature"] = headers["svix-signature"].replace("v1,", "v1a,")

    assert not accepts(headers)


def test_svix_signature_for_another_id_is_refused():
    assert not accepts({**signed(BODY, svix_id="msg_1"), "svix-id": "msg_2"})


def test_svix_example_of_the_documentation():
    """docs.svix.com/receiving/verifying-payloads/how-manual: the example's secret and what it signs."""
    secret = "whsec_plJ3nmyCDGBKInavdOK15jsl"
    body = b'{"event_type":"ping","data":{"success":true}}'
    stamp = datetime.fromtimestamp(1731705121, UTC)

    signature = Webhook(secret).sign("msg_loFOjxBNrRLzqYUf", stamp, body.decode())

    assert signature == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


@pytest.mark.parametrize("credentials", POSTMARK_SECRETS)
def test_postmark_either_secret_is_accepted_during_rotation(credentials):
    basic_auth(Incoming({"authorization": basic(credentials)["Authorization"]}, b""), POSTMARK_SECRETS)


def test_postmark_scheme_may_be_spelled_in_any_case():
    header = basic(POSTMARK_SECRETS[0])["Authorization"].replace("Basic", "bAsIc")

    basic_auth(Incoming({"authorization": header}, b""), POSTMARK_SECRETS)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic aG9vazo=",
        "Basic \xe9\xe9",
        "Bearer aG9vazpmaXJzdC1wYXNzd29yZA==",
        "aG9vazpmaXJzdC1wYXNzd29yZA==",
        "Basic aG9vazpmaXJzdC1wYXNzd29yZA",
        basic("hook:first-passwor")["Authorization"],
        basic("hook:first-password ")["Authorization"],
        basic("hook:first-password,hook:second-password")["Authorization"],
    ],
)
def test_postmark_anything_else_is_refused(header):
    with pytest.raises(Rejected):
        basic_auth(Incoming({"authorization": header}, b""), POSTMARK_SECRETS)
