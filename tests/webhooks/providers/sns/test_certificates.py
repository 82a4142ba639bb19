"""The certificates that tell whether a request is Amazon's: whose are taken, how they are fetched and kept."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import PATIENCE, free_port
from tests.mailer import tiny
from tests.webhooks.providers.amazon import KEY, URL, certificate, incoming, notification, signed
from tests.webhooks.providers.sns.conftest import PEM, TOPICS, accepts
from webhooks.exceptions import Rejected, Unavailable
from webhooks.providers import sns


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
