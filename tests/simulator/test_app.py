import json
import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import requests

from tests.simulator.conftest import TOKEN, Receiver, Simulator, Start, postmark_mail, resend_mail, wait_until


def test_log_narrows_by_time_and_by_our_id(quiet: Simulator) -> None:
    quiet.postmark(postmark_mail(Metadata={"message_id": "m-1"}))
    quiet.postmark(postmark_mail(Metadata={"message_id": "m-12"}))
    first, second = quiet.get("/log.json")["accepted"]

    assert quiet.get("/log.json", message_id="m-1")["accepted"] == [first]
    assert quiet.get("/log.json", since=first["accepted_at"])["accepted"] == [second]
    assert requests.get(f"{quiet.url}/log.json", params={"since": "noon"}, timeout=10).status_code == 400


@pytest.mark.parametrize("path", ["/log.json", "/requests.json"])
def test_lists_page(quiet: Simulator, path: str) -> None:
    name = {"/log.json": "accepted", "/requests.json": "requests"}[path]
    for number in range(5):
        quiet.send("postmark", message_id=f"m-{number}")

    pages, after = [], 0
    while after is not None:
        page = quiet.get(path, after=str(after), limit="2")
        pages.append([row["message_id"] for row in page[name]])
        after = page["next"]

    assert pages == [["m-0", "m-1"], ["m-2", "m-3"], ["m-4"]]
    assert requests.get(f"{quiet.url}{path}", params={"after": "x"}, timeout=10).status_code == 400


def test_requests_name_every_message_that_came(quiet: Simulator) -> None:
    batch = [postmark_mail(Metadata={"message_id": "m-2"}), postmark_mail(To="", Metadata={"message_id": "m-3"})]
    quiet.send("postmark")
    quiet.postmark(batch, "email/batch")
    quiet.postmark(postmark_mail(Metadata={"message_id": "m-4"}), token="wrong")
    requests.post(f"{quiet.url}/postmark/email", data=b"{", timeout=10)

    rows = quiet.get("/requests.json")["requests"]

    first, second = rows[0]["seq"], rows[1]["seq"]
    assert [(row["request"], row["message_id"], row["done"]) for row in rows] == [
        (first, "m-1", "accepted"),
        (second, "m-2", "accepted"),
        (second, "m-3", "refused_422"),
        (rows[3]["seq"], "m-4", "refused_401"),
        (rows[4]["seq"], "", "refused_422"),
    ]


def test_half_a_request_is_none(quiet: Simulator) -> None:
    body = json.dumps(postmark_mail())
    head = f"POST /postmark/email HTTP/1.1\r\nHost: x\r\nX-Postmark-Server-Token: {TOKEN}\r\n"
    with socket.create_connection(("127.0.0.1", quiet.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body[:20]}".encode())

    quiet.send("postmark", message_id="m-2")

    assert quiet.done() == [("postmark", "m-2", "accepted")]


def test_counts_name_what_was_not_accepted_once(quiet: Simulator) -> None:
    quiet.send("postmark", "silent@example.com", "once")
    for provider in ("postmark", "resend"):
        quiet.send(provider, "silent@example.com", "twice")
    quiet.send("postmark", "nobody", "never")

    assert quiet.get("/counts.json") == {
        "mails": 3,
        "by_provider": {"postmark": 2, "resend": 1},
        "not_once": {"never": 0, "twice": 2},
        "webhooks": {"withheld": 4},
    }


def test_counts_of_webhooks_follow_them(start: Start, receiver: Receiver) -> None:
    simulator = start()
    receiver.answers = [403]
    simulator.send("postmark", "someone@example.com")
    simulator.send("postmark", "slow@example.com")

    wait_until(lambda: simulator.get("/counts.json")["webhooks"] == {"failed": 1, "delivered": 1})
    simulator.stop()
    assert start().get("/counts.json")["webhooks"] == {"failed": 1, "delivered": 1}


def test_without_webhooks_nothing_follows(start: Start) -> None:
    for arguments, env in ((["--no-webhooks"], {}), ([], {"SIMULATOR_WEBHOOKS": "off"})):
        simulator = start(*arguments, **env)
        assert simulator.send("postmark", "slow@example.com").ok
        assert simulator.webhooks() == []
        simulator.stop()


def test_without_sync_a_kill_loses_nothing(start: Start) -> None:
    simulator = start(SIMULATOR_SYNC="off")
    assert simulator.send("postmark").ok
    simulator.process.kill()
    simulator.process.wait()

    assert start().count() == 1


def test_log_of_another_layout_is_begun_anew(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with closing(sqlite3.connect(tmp_path / "data" / "log.sqlite3")) as old:
        old.execute("CREATE TABLE mail (seq INTEGER PRIMARY KEY, id TEXT)")

    simulator = start()

    assert simulator.send("postmark").ok
    assert simulator.count() == 1


def test_inbox_gives_parts_and_links_newest_first(quiet: Simulator) -> None:
    quiet.postmark(postmark_mail("a@example.com"))
    quiet.resend(resend_mail("b@example.com", html='<a href="https://example.com/x?a=1&amp;b=2">x</a>'))

    newest, oldest = quiet.get("/inbox.json")["mails"]
    assert (newest["provider"], oldest["provider"]) == ("resend", "postmark")
    assert newest["links"] == ["https://example.com/verify?token=abc", "https://example.com/x?a=1&b=2"]
    assert newest["headers"] == {"X-Metadata": '{"message_id": "m-1"}'}
    assert newest["text"].startswith("Open ")
    assert quiet.get("/inbox.json", to="A@example.com")["mails"] == [oldest]


def test_accepted_mails_survive_kill_9(start: Start) -> None:
    simulator = start()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(simulator.resend, resend_mail("silent@example.com")) for _ in range(200)]
        wait_until(lambda: sum(answer.done() for answer in answers) > 50)
        simulator.process.kill()
    promised = {answer.result().json()["id"] for answer in answers if not answer.exception()}

    logged = {row["id"] for row in start().get("/log.json")["accepted"]}

    assert promised
    assert promised <= logged


def test_reset_empties_everything_but_the_faults(quiet: Simulator) -> None:
    quiet.resend(resend_mail(), key="key-1")
    quiet.faults(latency_ms=1)

    assert requests.post(f"{quiet.url}/reset", timeout=10).status_code == 204

    assert quiet.count() == 0
    assert quiet.webhooks() == []
    assert quiet.get("/faults")["latency_ms"] == 1
    assert quiet.resend(resend_mail(subject="Other"), key="key-1").ok


def test_webhooks_page_where_a_limit_is_given(simulator: Simulator) -> None:
    for _ in range(2):
        simulator.postmark(postmark_mail())
    planned = simulator.webhooks()

    first = simulator.get("/webhooks.json", limit="1")
    rest = simulator.get("/webhooks.json", after=str(first["next"]), limit="1000")

    assert len(first["webhooks"]) == 1
    assert [hook["seq"] for hook in first["webhooks"] + rest["webhooks"]] == [hook["seq"] for hook in planned]
    assert rest["next"] is None


def test_pages_show_mails_and_neither_run_nor_fetch(simulator: Simulator) -> None:
    html = "<script>alert(1)</script><b>Hi</b>"
    email_id = simulator.resend(resend_mail(subject="<Offer> & more", html=html)).json()["id"]
    wait_until(lambda: {hook["state"] for hook in simulator.webhooks()} == {"delivered"})

    inbox = requests.get(simulator.url, timeout=10)
    mail = requests.get(f"{simulator.url}/inbox/{email_id}", timeout=10)

    for page in (inbox, mail):
        assert "&lt;Offer&gt; &amp; more" in page.text
        assert "<script" not in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "2 answered" in inbox.text
    assert '<iframe sandbox title="HTML part" srcdoc="&lt;script' in mail.text
    assert 'href="https://example.com/verify?token=abc"' in mail.text
    assert "email.delivered" in mail.text
    assert requests.get(f"{simulator.url}/inbox/nothing", timeout=10).status_code == 404


def test_inbox_page_refreshes_unless_told_not_to(quiet: Simulator) -> None:
    assert 'http-equiv="refresh"' in requests.get(quiet.url, timeout=10).text
    assert 'http-equiv="refresh"' not in requests.get(f"{quiet.url}/?refresh=off", timeout=10).text
