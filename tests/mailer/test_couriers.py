"""Carrying requests: over connections that are kept, to servers that can be trusted, each for itself."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import aiohttp
import pytest
import trustme

from mailer import couriers, letters, sender
from mailer.couriers import Courier, Ended, Request
from mailer.models import Attempt
from mailer.verdicts import Verdict, of_error
from tests.conftest import PATIENCE, Simulator, free_port, wait_until
from tests.mailer import tiny
from tests.mailer.conftest import delivery_of, enqueue, read

OK = (200, {"X-Name": "Value"}, b"body")


@pytest.fixture
def courier() -> Iterator[Courier]:
    courier = Courier()
    yield courier
    courier.close()


@pytest.fixture
def server(courier) -> Iterator[tiny.Tiny]:
    with tiny.serving(lambda: OK) as server:
        yield server
        courier.close()


def post(url: str, body: str = "{}", **headers: str) -> Request:
    return Request("POST", f"{url}/", headers, body)


# --- Connections ----------------------------------------------------------------------------------------


def test_ask_returns_what_came_back(courier, server):
    response = courier.ask(post(server.url, "ping", token="secret"))

    assert (response.status, response.body, response.headers["x-name"]) == (200, b"body", "Value")
    ((headers, body),) = server.requests
    assert (headers["token"], body) == ("secret", b"ping")


def test_requests_one_after_the_other_share_a_connection(courier, server):
    for _ in range(20):
        courier.ask(post(server.url))

    assert (len(server.requests), server.connections) == (20, 1)


def test_one_connection_for_each_request_that_is_under_way_and_no_more(courier):
    together = threading.Barrier(5)

    def answer() -> tiny.Answer:
        together.wait(PATIENCE)  # all five are under way at once, in each round
        return OK

    with tiny.serving(answer) as server:
        for _ in range(4):
            ended: SimpleQueue[Ended[int]] = SimpleQueue()
            for number in range(5):
                courier.send(post(server.url), number, ended)
            assert {ended.get(timeout=PATIENCE).about for _ in range(5)} == set(range(5))
        courier.close()

    assert (len(server.requests), server.connections) == (20, 5)


def test_send_does_not_wait(courier):
    free = threading.Event()
    ended: SimpleQueue[Ended[str]] = SimpleQueue()

    def answer() -> tiny.Answer:
        free.wait(PATIENCE)
        return OK

    with tiny.serving(answer) as server:
        courier.send(post(server.url), "it", ended)
        wait_until(lambda: server.requests)
        assert ended.empty()

        free.set()

        came = ended.get(timeout=PATIENCE)
        courier.close()
    assert (came.about, came.result.status, came.error) == ("it", 200, None)


def test_a_cookie_is_not_kept(courier):
    with tiny.serving(lambda: (200, {"Set-Cookie": "a=b"}, b"")) as server:
        for _ in range(2):
            courier.ask(post(server.url))
        courier.close()

    assert [headers["Cookie"] for headers, _ in server.requests] == [None, None]


def test_a_redirect_is_not_followed(courier, server):
    with tiny.serving(lambda: (302, {"Location": f"{server.url}/", "Content-Length": "0"}, b"")) as elsewhere:
        assert courier.ask(post(elsewhere.url)).status == 302
        courier.close()

    assert server.connections == 0


@pytest.mark.parametrize("headers", [{"Content-Length": "1000"}, {}], ids=["cut off", "too long"])
def test_a_body_that_is_not_whole_is_none(courier, monkeypatch, headers):
    monkeypatch.setattr(couriers, "LARGEST", 3)
    with tiny.serving(lambda: (200, headers, b"body")) as server:
        response = courier.ask(post(server.url))
        courier.close()

    assert (response.status, response.body) == (200, None)


# --- Errors ---------------------------------------------------------------------------------------------


def test_a_request_that_fails_harms_no_other(courier, server):
    bad = {
        "header": post(server.url, token="a\nb"),
        "url": Request("POST", "nowhere", {}, ""),
        "port": post(f"http://127.0.0.1:{free_port()}"),
        "host": post("http://nobody.invalid"),
    }
    ended: SimpleQueue[Ended[str]] = SimpleQueue()

    for name, request in bad.items():
        courier.send(request, name, ended)
        courier.send(post(server.url), f"beside {name}", ended)
    came = {each.about: each for each in (ended.get(timeout=PATIENCE) for _ in range(2 * len(bad)))}

    assert {name for name, each in came.items() if each.error} == bad.keys()
    assert isinstance(came["header"].error, ValueError)
    assert not isinstance(came["header"].error, couriers.UNANSWERED)
    assert {of_error(came[name].error) for name in ("port", "host")} == {Verdict.NOT_SENT}
    assert of_error(came["url"].error) is Verdict.CONFIGURATION
    assert courier.ask(post(server.url)).status == 200


def test_ask_raises_what_a_request_got_no_answer_for(courier):
    with pytest.raises(aiohttp.ClientConnectorError):
        courier.ask(post(f"http://127.0.0.1:{free_port()}"))


def test_a_connection_that_is_cut_is_in_doubt(courier):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def cut() -> None:
            peer, _ = listening.accept()
            peer.recv(65536)
            peer.close()

        thread = threading.Thread(target=cut)
        thread.start()
        with pytest.raises(couriers.UNANSWERED) as raised:
            courier.ask(post(f"http://127.0.0.1:{listening.getsockname()[1]}"))
        thread.join(PATIENCE)

    assert of_error(raised.value) is Verdict.AMBIGUOUS


# --- Threads --------------------------------------------------------------------------------------------


def test_work_returns_what_a_function_returns_or_raises(courier):
    ended: SimpleQueue[Ended[str]] = SimpleQueue()

    def fail() -> None:
        raise RuntimeError("no")

    courier.work(fail, "bad", ended, 1)
    courier.work(lambda: 7, "good", ended, 1)

    bad, good = ended.get(timeout=PATIENCE), ended.get(timeout=PATIENCE)
    assert (bad.about, str(bad.error)) == ("bad", "no")
    assert (good.about, good.result, good.error) == ("good", 7, None)


def test_work_that_has_no_thread_yet_can_be_taken_back(courier):
    ended: SimpleQueue[Ended[str]] = SimpleQueue()
    free = threading.Event()

    courier.work(lambda: free.wait(PATIENCE), "first", ended, 1)
    waiting = courier.work(lambda: None, "second", ended, 1)

    assert waiting.cancel()
    free.set()
    assert ended.get(timeout=PATIENCE).about == "first"


# --- The end, and a new beginning -----------------------------------------------------------------------


def test_close_may_be_called_at_any_time_and_twice(courier, server):
    before = set(threading.enumerate())  # the process's own courier may be among them
    courier.close()
    courier.ask(post(server.url))
    courier.work(lambda: None, "it", SimpleQueue(), 1)

    courier.close()
    courier.close()

    assert not any(thread.name == "courier" for thread in set(threading.enumerate()) - before)


def test_a_request_after_the_close_opens_another_connection(courier, server):
    courier.ask(post(server.url))
    courier.close()

    assert courier.ask(post(server.url)).status == 200

    assert server.connections == 2


def test_a_forked_child_has_its_own_and_leaves_its_parents_alone():
    with tiny.serving(lambda: OK) as server:
        parents = couriers.of_this_process()
        parents.ask(post(server.url, "parent"))

        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(PATIENCE))  # it ends, also where it waits for a thread that stayed with its parent
            own = couriers.of_this_process()
            is_well = own is not parents and own.ask(post(server.url, "child")).status == 200
            couriers.close()
            os._exit(0 if is_well else 1)
        _, status = os.waitpid(child, 0)
        parents.ask(post(server.url, "parent"))
        couriers.close()

    assert os.waitstatus_to_exitcode(status) == 0
    assert couriers.of_this_process() is parents
    assert [body for _, body in server.requests] == [b"parent", b"child", b"parent"]
    assert server.connections == 2


# --- Trust ----------------------------------------------------------------------------------------------


@pytest.fixture
def encrypted(tmp_path, settings):
    """Start a simulator that speaks TLS and prefer Resend there."""
    started = []

    def encrypted() -> Simulator:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        certificate = authority.issue_cert("127.0.0.1")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
        certificate.private_key_pem.write_to_path(tmp_path / "server.key")
        flags = {
            "SIMULATOR_CERTFILE": str(tmp_path / "server.pem"),
            "SIMULATOR_KEYFILE": str(tmp_path / "server.key"),
        }
        running = Simulator.started(tmp_path, str(tmp_path / "ca.pem"), **flags)
        started.append(running)
        simulator = running.__enter__()
        settings.MAIL_PROVIDERS, settings.ANYMAIL = ["resend"], {**settings.ANYMAIL, **simulator.anymail}
        letters.backend_at.cache_clear()
        couriers.close()  # a session trusts whom it trusted when it began
        return simulator

    yield encrypted
    couriers.close()
    letters.backend_at.cache_clear()
    for running in started:
        running.__exit__(None, None, None)


def test_a_server_that_is_trusted_gets_the_mail(db, encrypted, monkeypatch, tmp_path):
    simulator = encrypted()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    message = enqueue()

    sender.drain()

    assert (read(message).state, delivery_of(message).esp_message_id) == ("sent", simulator.accepted()[0]["id"])


def test_a_server_that_cannot_be_trusted_gets_nothing(db, encrypted):
    simulator = encrypted()
    message = enqueue()

    sender.drain()

    attempt = Attempt.objects.get()
    assert (read(message).state, attempt.outcome) == ("retry", "not_sent")
    assert attempt.error_class == "ClientConnectorCertificateError"
    assert simulator.requests() == []


def test_a_certificate_of_another_host_is_not_trusted(courier, monkeypatch, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("elsewhere.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))

    with tiny.serving(lambda: OK, tmp_path / "server.pem") as server:
        with pytest.raises(couriers.UNANSWERED) as raised:
            courier.ask(post(server.url))
        courier.close()

    assert of_error(raised.value) is Verdict.NOT_SENT
    assert server.requests == []
