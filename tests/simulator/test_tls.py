from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme

from tests.simulator.conftest import TOKEN, Simulator, postmark_mail, running


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Simulator]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = authority.issue_cert("127.0.0.1")
    server.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    server.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    flags = ("--certfile", str(tmp_path / "server.pem"), "--keyfile", str(tmp_path / "server.key"))
    with running(tmp_path / "data", *flags, ca=str(tmp_path / "ca.pem")) as simulator:
        yield simulator


def post(simulator: Simulator, **how: object) -> requests.Response:
    return requests.post(
        f"{simulator.url}/postmark/email",
        json=postmark_mail(),
        headers={"X-Postmark-Server-Token": TOKEN},
        timeout=10,
        **{"verify": simulator.verify, **how},
    )


def test_mails_are_taken_over_tls(encrypted: Simulator) -> None:
    assert post(encrypted).ok
    assert encrypted.count() == 1


def test_a_certificate_that_nobody_trusts_ends_the_connection(encrypted: Simulator) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        post(encrypted, verify=True)


def test_a_reset_cuts_an_encrypted_connection(encrypted: Simulator) -> None:
    def fault(**faults: float) -> None:
        requests.put(f"{encrypted.url}/faults", json=faults, timeout=10, verify=encrypted.verify).raise_for_status()

    fault(rate_reset_after=1)

    with pytest.raises(requests.ConnectionError):
        post(encrypted)

    fault()
    assert encrypted.done() == [("postmark", "m-1", "reset_after")]
