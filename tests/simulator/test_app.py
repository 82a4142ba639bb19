from concurrent.futures import ThreadPoolExecutor

import requests

from tests.simulator.conftest import Simulator, Start, postmark_mail, resend_mail, wait_until


def test_log_narrows_by_time_and_by_our_id(quiet: Simulator) -> None:
    quiet.postmark(postmark_mail(Metadata={"message_id": "m-1"}))
    quiet.postmark(postmark_mail(Metadata={"message_id": "m-12"}))
    first, second = quiet.get("/log.json")["accepted"]

    assert quiet.get("/log.json", message_id="m-1")["accepted"] == [first]
    assert quiet.get("/log.json", since=first["accepted_at"])["accepted"] == [second]
    assert requests.get(f"{quiet.url}/log.json", params={"since": "noon"}, timeout=10).status_code == 400


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
