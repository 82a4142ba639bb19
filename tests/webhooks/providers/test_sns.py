"""Whether a request is Amazon's: docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tests.brokers import AWS, Moto
from tests.conftest import PATIENCE, free_port
from tests.mailer import tiny
from tests.webhooks.conftest import encoded
from tests.webhooks.providers import mangled
from tests.webhooks.providers.amazon import KEY, TOPIC, URL, certificate, confirmation, incoming, notification, signed
from webhooks.exceptions import Rejected, Unavailable
from webhooks.providers import sns

TOPICS = ["arn:aws:sns:eu-west-1:123456789012:other", TOPIC]
PEM = certificate(KEY)
CONFIRMED = b"""<ConfirmSubscriptionResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><ConfirmSubscriptionResult>
<SubscriptionArn>arn:aws:sns:us-east-1:123456789012:events:1</SubscriptionArn></ConfirmSubscriptionResult>
<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></ConfirmSubscriptionResponse>"""


def refusal(code):
    return (
        f'<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type><Code>{code}</Code>'
        "<Message>no</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    ).encode()


class Store:
    """Where certificates come from; what it says may change."""

    def __init__(self):
        self.asked = []
        self.answer = PEM

    def fetch(self, url):
        self.asked.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(sns, "CERTIFICATES", sns.Certificates(store.fetch))
    return store


@pytest.fixture
def amazon(monkeypatch, tmp_path):
    """Have boto3 speak to another server, as somebody, and find nothing else on this machine."""

    def point(url):
        environment = {
            **AWS,
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return point


def accepts(request, topics=TOPICS):
    try:
        sns.verify(request, topics)
    except Rejected:
        return False
    return True


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("fields", [{}, {"Subject": "Amazon SES Email Event Notification"}, {"Subject": None}])
def test_notification_is_accepted(version, fields):
    assert accepts(incoming(signed(notification({}, **fields), version=version)))


@pytest.mark.parametrize("version", ["1", "2"])
def test_goodbye_is_accepted_and_nothing_asked_of_amazon(version):
    assert accepts(incoming(signed(confirmation(Type="UnsubscribeConfirmation"), version=version)))


@pytest.mark.parametrize("version", ["", "0", "3", "11", None, 1])
def test_other_signature_version_is_refused(version):
    assert not accepts(incoming({**signed(notification({})), "SignatureVersion": version}))


def test_version_1_signature_is_none_of_version_2():
    assert not accepts(incoming({**signed(notification({}), version="1"), "SignatureVersion": "2"}))


@pytest.mark.parametrize("field", ["Message", "MessageId", "Subject", "Timestamp", "Type"])
def test_field_that_was_changed_is_refused(field):
    message = signed(notification({}, Subject="one"))
    changed = {"Timestamp": sns.datetime.now(sns.UTC).isoformat(), "Type": "UnsubscribeConfirmation"}.get(field, "two")

    assert not accepts(incoming({**message, field: changed, "Token": "t", "SubscribeURL": "https://example.com"}))


@pytest.mark.parametrize("field", sorted({*sns.SIGNED["Notification"]} - {"Subject"}))
@pytest.mark.parametrize("value", [None, 5, ["text"], {"text": 1}, True])
def test_field_that_is_no_text_is_refused(field, value):
    assert not accepts(incoming({**signed(notification({})), field: value}))


@pytest.mark.parametrize("field", ["Signature", "SignatureVersion", "SigningCertURL", "Timestamp", "TopicArn", "Type"])
def test_field_is_missing(field):
    message = signed(notification({}))
    del message[field]

    assert not accepts(incoming(message))


@limits(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_byte_of_the_message_decides(data):
    message = signed(notification({"eventType": "Delivery"}))
    body = encoded(message)
    start = body.index(b'"Message": "') + 12
    position = data.draw(st.integers(start, body.index(b'", "Timestamp"') - 1))
    changed = body[:position] + bytes([data.draw(st.integers(0, 255))]) + body[position + 1 :]

    assert accepts(incoming(changed)) == (changed == body)


def test_another_key_is_refused():
    assert not accepts(incoming(signed(notification({}), key=rsa.generate_private_key(65537, 2048))))


@pytest.mark.parametrize("topics", [[], ["arn:aws:sns:us-east-1:123456789012:other"], [TOPIC + "s"], [TOPIC[:-1]]])
def test_topic_is_not_allowed_and_nothing_is_fetched(topics, store):
    assert not accepts(incoming(signed(notification({}))), topics)
    assert store.asked == []


@pytest.mark.parametrize("age", [-240, 0, 3600, 7000])
def test_age_up_to_an_hour_of_repeats_is_accepted(age):
    assert accepts(incoming(signed(notification({}, age=age))))


@pytest.mark.parametrize("age", [-600, 7500, 86400, 10**9])
def test_older_or_of_the_future_is_refused(age, store):
    assert not accepts(incoming(signed(notification({}, age=age))))
    assert store.asked == []


@pytest.mark.parametrize("timestamp", ["", "now", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9" * 30])
def test_timestamp_that_is_none_is_refused(timestamp):
    assert not accepts(incoming(signed(notification({}, Timestamp=timestamp))))


@pytest.mark.parametrize(
    "url",
    [
        "http" + URL[5:],
        URL.replace("sns.us-east-1", "sns.us-east-1.example"),
        URL.replace("amazonaws.com", "amazonaws.com.example.com"),
        URL.replace("amazonaws.com", "amazonaws.com.cn.example.com"),
        URL.replace("amazonaws.com", "amazonaws.example"),
        URL.replace("sns.us-east-1.amazonaws.com", "example.com"),
        URL.replace("sns.us-east-1.amazonaws.com", "sns.us-east-1.amazonaws.com@example.com"),
        URL.replace("sns.us-east-1.amazonaws.com", "sns.us-east-1.amazonaws.com:444"),
        URL.replace("sns.us-east-1", "sns.eu-west-1"),
        URL.replace("sns.us-east-1", "sns..us-east-1"),
        URL.replace("sns.us-east-1", "xsns.us-east-1"),
        URL.replace("amazonaws.com", "amazonawsxcom"),
        URL.replace("/Simple", "/bucket/Simple"),
        URL.replace("/Simple", "/../Simple"),
        URL.replace(".pem", ".txt"),
        URL + "?x=1",
        URL + "#x",
        URL + "\n",
        " " + URL,
        URL.upper(),
        "file:///etc/passwd",
        "",
    ],
)
def test_certificate_from_elsewhere_is_refused_and_never_fetched(url, store):
    assert not accepts(incoming({**signed(notification({})), "SigningCertURL": url}))
    assert store.asked == []


def test_certificate_of_china():
    topic = "arn:aws-cn:sns:cn-north-1:123456789012:events"
    message = signed(notification({}, TopicArn=topic))
    message["SigningCertURL"] = URL.replace("us-east-1.amazonaws.com", "cn-north-1.amazonaws.com.cn")

    assert accepts(incoming(message), [topic])


@pytest.mark.parametrize("signature", ["", "!", "AAAA", "é", "A" * 344, "\ud800"])
def test_signature_that_is_none_is_refused(signature):
    assert not accepts(incoming({**signed(notification({})), "Signature": signature}))


def test_header_of_another_type_is_refused():
    message = signed(notification({}))

    assert not accepts(incoming(message, **{"x-amz-sns-message-type": "SubscriptionConfirmation"}))
    assert accepts(incoming(message, **{"x-amz-sns-message-type": "Notification"}))


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"null", b'"x"', b"\xff", b"[" * 100_000, b"{}", b'{"Type": []}'])
def test_body_that_is_no_message_is_refused(body):
    assert not accepts(incoming(body))


def test_certificate_is_fetched_once(store):
    assert all(accepts(incoming(signed(notification({}, age=age)))) for age in range(5))
    assert store.asked == [URL]


def test_certificates_kept_are_few(store):
    urls = [URL.replace(".pem", f"{number}.pem") for number in range(100)]

    for url in urls:
        sns.CERTIFICATES.key(url)

    assert len(sns.CERTIFICATES._kept) <= sns.MOST
    assert store.asked == urls


def test_certificate_that_was_kept_for_a_day_is_fetched_again(store, monkeypatch):
    accepts(incoming(signed(notification({}))))
    monkeypatch.setattr(sns, "LIFETIME", 0)

    assert accepts(incoming(signed(notification({}))))
    assert store.asked == [URL, URL]


@pytest.mark.parametrize(
    "failure",
    [Unavailable("no answer"), b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
)
def test_certificate_that_cannot_be_had_is_our_fault_and_is_not_remembered(failure, store):
    request = incoming(signed(notification({})))
    store.answer = failure

    with pytest.raises(Unavailable):
        sns.verify(request, TOPICS)
    store.answer = PEM

    assert accepts(request)


def test_certificate_that_does_not_exist_is_not_remembered(store):
    request = incoming(signed(notification({})))
    store.answer = Rejected("there is no such certificate")
    assert not accepts(request)
    store.answer = PEM

    assert accepts(request)


def test_one_certificate_is_fetched_at_a_time_and_none_is_waited_for():
    kept, slow, other = URL, URL.replace(".pem", "1.pem"), URL.replace(".pem", "2.pem")
    asked, begun, let_go = [], threading.Event(), threading.Event()

    def fetch(url):
        asked.append(url)
        if url == slow:
            begun.set()
            assert let_go.wait(PATIENCE)
        return PEM

    certificates = sns.Certificates(fetch)
    key = certificates.key(kept)

    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(certificates.key, slow)
        assert begun.wait(PATIENCE)
        try:
            for url in (slow, other):
                with pytest.raises(Unavailable, match="being fetched"):
                    certificates.key(url)
            assert certificates.key(kept) == key
        finally:
            let_go.set()
        assert fetching.result(PATIENCE) == key

    assert certificates.key(other) == certificates.key(slow) == key
    assert asked == [kept, slow, other]


@pytest.mark.parametrize("failure", [Unavailable("no answer"), Rejected("nothing there"), b"", KeyError("a bug")])
def test_fetch_that_failed_keeps_nobody_from_the_next(failure, store):
    store.answer = failure
    with pytest.raises((Unavailable, Rejected, KeyError)):
        sns.CERTIFICATES.key(URL)
    store.answer = PEM

    assert sns.CERTIFICATES.key(URL)


@pytest.mark.parametrize("days", [(-30, -1), (1, 30)])
def test_certificate_that_is_not_valid_now_is_refused(days, store):
    store.answer = certificate(KEY, *days)

    assert not accepts(incoming(signed(notification({}))))


def test_certificate_of_another_kind_of_key_is_refused(store):
    store.answer = certificate(ec.generate_private_key(ec.SECP256R1()))

    assert not accepts(incoming(signed(notification({}))))


@limits(max_examples=150, deadline=None)
@given(body=mangled.bodies([signed(notification({"eventType": "Send"})), signed(confirmation())]))
def test_mangled_request_is_accepted_refused_or_put_off(body):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sns, "confirm", lambda topic, token: None)
        assert accepts(incoming(body)) in (True, False)


class TestFetch:
    """From a real server, over TLS by an authority of the test's."""

    @pytest.fixture
    def serving(self, tmp_path, monkeypatch):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        return lambda *answer: tiny.serving(lambda: answer, tmp_path / "server.pem")

    def test_content_is_returned(self, serving):
        with serving(200, {}, PEM) as server:
            assert sns.fetch(server.url) == PEM

    def test_nothing_there_is_refused(self, serving):
        with serving(404, {}, b"") as server, pytest.raises(Rejected):
            sns.fetch(server.url)

    @pytest.mark.parametrize("status", [204, 500, 503])
    def test_other_answer_is_our_fault(self, serving, status):
        with serving(status, {}, b"") as server, pytest.raises(Unavailable):
            sns.fetch(server.url)

    def test_redirect_is_not_followed(self, serving):
        with serving(200, {}, PEM) as target, serving(302, {"Location": target.url}, b"") as server:
            with pytest.raises(Unavailable):
                sns.fetch(server.url)

            assert target.requests == []

    def test_authority_that_is_not_trusted_is_our_fault(self, serving, monkeypatch):
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")

        with serving(200, {}, PEM) as server, pytest.raises(Unavailable, match="SSLError"):
            sns.fetch(server.url)

    def test_too_large_is_our_fault(self, serving):
        with serving(200, {}, b"x" * (sns.LARGEST + 1)) as server, pytest.raises(Unavailable):
            sns.fetch(server.url)

    def test_cut_off_is_our_fault(self, serving):
        with serving(200, {"Content-Length": "100"}, b"x") as server, pytest.raises(Unavailable):
            sns.fetch(server.url)

    def test_silence_ends(self, serving, monkeypatch):
        monkeypatch.setattr(sns, "WITHIN", 0.2)

        with serving(200, {"Content-Length": "100", "Connection": "keep-alive"}, b"") as server:
            started = time.monotonic()
            with pytest.raises(Unavailable):
                sns.fetch(server.url)

        assert time.monotonic() - started < 10

    def test_nobody_there_is_our_fault(self):
        with pytest.raises(Unavailable):
            sns.fetch(f"https://127.0.0.1:{free_port()}")


class TestConfirm:
    def test_subscription_is_confirmed_through_the_api_alone(self, amazon):
        with tiny.serving(lambda: (200, {}, CONFIRMED)) as api, tiny.serving(lambda: (200, {}, b"")) as trap:
            amazon(api.url)

            assert accepts(incoming(signed(confirmation(SubscribeURL=f"{trap.url}/?Action=ConfirmSubscription"))))

        [(_, body)] = api.requests
        assert b"Action=ConfirmSubscription" in body
        assert f"TopicArn={TOPIC.replace(':', '%3A')}".encode() in body
        assert b"Token=2336412f37f" in body
        assert b"AuthenticateOnUnsubscribe=true" in body
        assert trap.requests == []

    def test_subscription_is_confirmed_at_moto(self, amazon, tmp_path_factory):
        server = Moto(tmp_path_factory.mktemp("moto") / "server", volatile=True)
        server.start()
        try:
            amazon(server.url)
            unknown = accepts(incoming(signed(confirmation())))
            boto3.session.Session().client("sns").create_topic(Name="events")

            assert not unknown
            assert accepts(incoming(signed(confirmation())))
        finally:
            server.stop()

    @pytest.mark.parametrize(
        "message",
        [
            signed(confirmation(), key=rsa.generate_private_key(65537, 2048)),
            signed(confirmation(TopicArn=TOPIC + "s")),
            signed(confirmation(age=90_000)),
            {**signed(confirmation()), "Token": "another"},
        ],
        ids=["forged", "topic", "age", "token"],
    )
    def test_nothing_is_confirmed_that_was_not_verified(self, amazon, message):
        with tiny.serving(lambda: (200, {}, CONFIRMED)) as api:
            amazon(api.url)

            assert not accepts(incoming(message))

        assert api.requests == []

    @pytest.mark.parametrize("code", ["InvalidParameter", "NotFound"])
    def test_token_that_is_no_good_is_refused(self, amazon, code):
        with tiny.serving(lambda: (400, {}, refusal(code))) as api:
            amazon(api.url)

            assert not accepts(incoming(signed(confirmation())))

    @pytest.mark.parametrize(
        "answer", [(403, {}, refusal("AuthorizationError")), (500, {}, refusal("InternalError")), (503, {}, b"busy")]
    )
    def test_other_answer_is_our_fault(self, amazon, answer):
        with tiny.serving(lambda: answer) as api:
            amazon(api.url)

            with pytest.raises(Unavailable):
                sns.verify(incoming(signed(confirmation())), TOPICS)

    def test_nobody_there_is_our_fault(self, amazon):
        amazon(f"http://127.0.0.1:{free_port()}")

        with pytest.raises(Unavailable):
            sns.verify(incoming(signed(confirmation())), TOPICS)

    def test_no_credentials_is_our_fault(self, amazon, monkeypatch):
        amazon(f"http://127.0.0.1:{free_port()}")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

        with pytest.raises(Unavailable):
            sns.verify(incoming(signed(confirmation())), TOPICS)
