"""How providers are asked what became of a mail, as data: a module for each that tells (`Provider.tells`).

Why the others do not:

    amazon_ses    its message insights are of the Virtual Deliverability Manager, which is sold apart
    mailersend    a message shows its mails without saying whose each is
    mailtrap      no page of its sending API shows a mail's events by its id
    postal        its numbers of mails are of one server, and the API that knows them is called legacy
    scaleway      it shows whether its own server has sent a mail, not what became of it
    smtp          there is nobody to ask
    unisender_go  it writes events to a file that is made on request, within minutes
"""

from importlib import import_module
from typing import Final

from django.conf import settings

from mailer.providers import PROVIDERS
from webhooks.polls.base import Poll, Story

POLLS: Final[dict[str, Poll]] = {
    provider.name: import_module(f"{__name__}.{provider.name}").POLL
    for provider in PROVIDERS.values()
    if provider.tells
}


def rate(name: str) -> float:
    """Return how many requests a second may go to a provider in the long run."""
    requests: float = settings.RECONCILE_RATES.get(name, POLLS[name].rate)
    return requests


def burst(name: str) -> float:
    """Return how many requests may go to a provider at once: those of one question at least."""
    requests: float = settings.RECONCILE_BURSTS.get(name, POLLS[name].burst)
    return max(requests, POLLS[name].most)


__all__ = ["POLLS", "Poll", "Story", "burst", "rate"]
