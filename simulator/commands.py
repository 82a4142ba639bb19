"""What a person has a running simulator do: ``python -m simulator report``, ``check`` and ``secrets``."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import requests

from simulator.behaviour import WORDS
from simulator.reports import REPORTS, amazon_ses
from simulator.settings import secret_variable, webhook_variable

PATIENCE = 60.0  # seconds, for as long as the service may take to answer
NOT_DONE = 1
# Where a service is on this machine: only there the simulator is taken for Amazon, whose certificate stands at Amazon.
OWN_MACHINE = frozenset({"127.0.0.1", "localhost", "::1"})


def report(arguments: list[str]) -> int:
    """Have a webhook posted about a mail, and say what was answered. Returns 0 where all that was posted was taken."""
    flags = _report_parser().parse_args(arguments)
    one = {name: getattr(flags, name) for name in ("mail", "to", "at") if getattr(flags, name)}
    if flags.message_id:
        one["metadata"] = {"message_id": flags.message_id}
    asked = {
        "provider": flags.provider,
        "reports": [{**one, "happening": happening} for happening in flags.happening],
        "batch": flags.batch,
        "faults": _faults(flags),
    }
    answer = _ask(flags.simulator, "/reports", json=asked)
    if answer is None:
        return NOT_DONE
    for hook in answer["webhooks"]:
        said = hook["status"] or hook["answer"] or "not posted yet"
        sys.stdout.write(f"{hook['provider']} {hook['event']} ({hook['state']}): {said}\n")
    return _code(hook["status"] for hook in answer["webhooks"] if hook["attempts"])


def check(arguments: list[str]) -> int:
    """Have an address tried as its provider does when it is told of it. Returns 0 where all of that was answered."""
    flags = _check_parser().parse_args(arguments)
    answer = _ask(flags.simulator, "/checks", params={"provider": flags.provider})
    if answer is None:
        return NOT_DONE
    for each in answer["checks"]:
        sys.stdout.write(f"{flags.provider} {each['method']}: {each['status'] or each['answer']}\n")
    return _code(each["status"] for each in answer["checks"])


def _ask(simulator: str, path: str, **request: Any) -> Any:
    """Ask a running simulator; None, once that was said, where it does not do it."""
    try:
        answer = requests.post(f"{simulator.rstrip('/')}{path}", timeout=PATIENCE, **request)
    except requests.RequestException as error:
        sys.stderr.write(f"simulator: nobody answers at {simulator} ({type(error).__name__})\n")
        return None
    if not answer.ok:
        sys.stderr.write(f"simulator: {answer.json()['error']}\n")
        return None
    return answer.json()


def _code(statuses: Iterable[int | None]) -> int:
    return 0 if all(status in range(200, 300) for status in statuses) else NOT_DONE


def _faults(flags: argparse.Namespace) -> dict[str, Any]:
    return {
        # Answered with what the service said, unless that is for later.
        "webhook_early": not flags.late,
        "webhook_delay_ms": flags.late,
        "webhook_duplicate": float(flags.doubled),
        "webhook_forged": float(flags.forged),
        "webhook_shuffle": flags.shuffled,
    }


def _report_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator report",
        description="Have a running simulator post a provider's webhook about a mail, also one that it did not take.",
    )
    parser.add_argument("provider", choices=REPORTS, metavar="PROVIDER", help=", ".join(REPORTS))
    parser.add_argument("happening", choices=WORDS, nargs="+", metavar="HAPPENING", help=", ".join(WORDS))
    parser.add_argument("--mail", required=True, help="the provider's id of the mail")
    parser.add_argument("--to", help="the recipient; needed for a mail that this simulator did not take")
    parser.add_argument("--message-id", help="our id of the message, for the metadata of such a mail")
    parser.add_argument("--at", help="when it happened, RFC 3339 (default: now)")
    parser.add_argument("--batch", type=int, default=1, help="events in one webhook, where the provider does so")
    parser.add_argument("--doubled", action="store_true", help="post it twice")
    parser.add_argument("--forged", action="store_true", help="sign by another secret")
    parser.add_argument("--shuffled", action="store_true", help="in any order")
    parser.add_argument("--late", type=float, default=0.0, metavar="MS", help="post it so many milliseconds from now")
    return _where(parser)


def _check_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator check",
        description="Have a running simulator try a service's address, as the provider does before it reports there.",
    )
    checking = [name for name, reports in REPORTS.items() if reports.checks]
    parser.add_argument("provider", choices=checking, metavar="PROVIDER", help=", ".join(checking))
    return _where(parser)


def _where(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--simulator", default="http://127.0.0.1:8025", help="default: http://127.0.0.1:8025")
    return parser


def secrets(arguments: list[str]) -> int:
    """Print new secrets: what the service is told, and what the simulator. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator secrets",
        description="Print settings by which a service takes the webhooks of this simulator as every provider's.",
    )
    parser.add_argument("service", nargs="?", default="http://127.0.0.1:8000", help="default: http://127.0.0.1:8000")
    for name, value in environment(parser.parse_args(arguments).service).items():
        sys.stdout.write(f"{name}={value}\n")
    return 0


def environment(service: str) -> dict[str, str]:
    """Make settings for both sides, with new secrets, for all providers whose webhooks the service can take."""
    taken = [name for name in REPORTS if name != amazon_ses.NAME or urlsplit(service).hostname in OWN_MACHINE]
    return {variable: value for name in taken for variable, value in _settings(name, service)}


def _settings(name: str, service: str) -> Iterator[tuple[str, str]]:
    scheme = REPORTS[name].scheme
    ours, theirs = scheme.make()
    url = f"{service.rstrip('/')}/webhooks/{name}/"
    if name == amazon_ses.NAME:
        yield "WEBHOOK_TOPICS_AMAZON_SES", theirs
        yield "WEBHOOK_SIMULATED_CERTIFICATE", amazon_ses.one_line(amazon_ses.certificate(scheme.read(ours)))
    else:
        yield f"WEBHOOK_SECRET_{name.upper()}", theirs
    yield webhook_variable(name), url.replace("://", f"://{ours}@", 1) if scheme.in_url else url
    if not scheme.in_url:
        yield secret_variable(name), ours


COMMANDS: dict[str, Callable[[list[str]], int]] = {"report": report, "check": check, "secrets": secrets}
