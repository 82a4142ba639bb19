"""Webhooks as their providers post them."""

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import requests

from simulator.reports import REPORTS, Sending
from tests.chaos.ground import HOOK_PASSWORD, PATIENCE, SVIX_SECRET, Ground

_RESEND: Final = REPORTS["resend"]
# How a provider signs its webhook: (hook, body) -> headers.
SIGNED: Final[dict[str, Callable[[dict[str, Any], str], dict[str, str]]]] = {
    "postmark": lambda _, __: {"Authorization": f"Basic {base64.b64encode(f'hook:{HOOK_PASSWORD}'.encode()).decode()}"},
    "resend": lambda hook, body: (
        _RESEND.sign(body, Sending(hook["id"], 0, ""), _RESEND.scheme.read(SVIX_SECRET)).headers
    ),
}


def signed(hook: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Return the path, the body and the headers of a webhook."""
    body = json.dumps(hook["body"])
    return f"/webhooks/{hook['provider']}/", body, SIGNED[hook["provider"]](hook, body)


def replay(ground: Ground, told: set[int]) -> bool:
    """Post what its provider has tried in vain, and would again in hours or never; tell whether all is acknowledged.

    `told` are the numbers of those acknowledged so: it grows.
    """
    with requests.Session() as session:
        open_ones = [
            hook for hook in ground.provider.webhooks() if hook["state"] != "delivered" and hook["seq"] not in told
        ]
        for hook in open_ones:
            if hook["attempts"]:
                path, body, headers = signed(hook)
                headers |= {"Content-Type": "application/json"}
                with suppress(requests.RequestException):  # the web server is just being started
                    if session.post(ground.url + path, body, headers=headers, timeout=PATIENCE).status_code == 200:
                        told.add(hook["seq"])
    return all(hook["seq"] in told for hook in open_ones)
