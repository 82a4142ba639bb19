"""Who asks in the contract's runs: accounts that come back whatever was done to them."""

import os
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from django.contrib.auth.hashers import make_password
from django.db.models import QuerySet
from knox.models import AuthToken

from mailer import outbox
from mailer.models import DeliveryStatus
from tests.api.conftest import happen, post
from users import challenges, registration
from users.models import EmailChallenge, User
from webhooks.models import WebhookReceipt

# As in the document's examples.
PASSWORD: Final = "correct horse battery"
# Hashed once, since it takes as long as ten requests.
_HASHED: Final = make_password(PASSWORD)
# What happens to the mails of an account: one of each shape that an answer may have.
_COURSES: Final = (
    ("sent", "delivered", "opened", "clicked"),
    ("sent", "deferred", "bounced"),
    (),
)


@dataclass(slots=True)
class Account:
    """An account that requests may delete, or take the tokens and the password of."""

    email: str
    is_superuser: bool = False
    digest: str = ""
    shown: str = ""

    def token(self) -> str:
        """Return a token that is good now, of an account that has its password and some deliveries."""
        if not AuthToken.objects.filter(digest=self.digest).exists():
            row, self.shown = AuthToken.objects.create(user=self._user())
            self.digest = row.digest
        return self.shown

    def _user(self) -> User:
        found = User.objects.filter(email_canonical=self.email).first()
        if found is None:
            # Past the signals: nobody has to be written to.
            user = User(email=self.email, email_canonical=self.email, is_superuser=self.is_superuser)
            found = User.objects.bulk_create([user])[0]
            for course in _COURSES:
                deliver(self.email, *course, user=found)
        User.objects.filter(pk=found.pk).update(password=_HASHED, is_active=True)
        return found


def deliver(recipient: str, *events: str, user: User | None = None) -> DeliveryStatus:
    """Enqueue a mail, and let events happen to it."""
    message = outbox.enqueue("welcome", recipient, dedupe_key=f"contract:{uuid4()}", user=user)
    delivery = DeliveryStatus.objects.get(message=message)
    for event in events:
        happen(delivery, event, provider="postmark", detail=f"smtp; <{recipient}>")
    return delivery


def link_token(purpose: str) -> str:
    """Return the token of a link that somebody new was sent."""
    address = f"{uuid4()}@example.org"
    user = User.objects.bulk_create([User(email=address, email_canonical=address)])[0]
    new = f"new-{address}" if purpose == "change_email" else ""
    return challenges.link_token(challenges.issue(user, EmailChallenge.Purpose(purpose), email=new, typed=new))


def known(path: str, account: Account | None, turn: int) -> dict[str, str]:
    """Return parameters for a path that name something the account may ask for, in turn; none for other paths."""
    email = account.email if account else ""
    rows: dict[str, tuple[str, QuerySet[Any]]] = {
        "accounts/registrations/{id}": ("pk", EmailChallenge.objects.filter(purpose="verify_email", renews=None)),
        "accounts/me/deliveries/{id}": ("pk", DeliveryStatus.objects.filter(user__email=email)),
        "auth/tokens/{token_key}": ("token_key", AuthToken.objects.filter(user__email=email)),
        "deliveries/{id}": ("pk", DeliveryStatus.objects.all()),
        "webhook-receipts/{id}": ("pk", WebhookReceipt.objects.all()),
        "webhook-receipts/{id}/replay": ("pk", WebhookReceipt.objects.all()),
    }
    field, found = rows.get(path.removeprefix("/api/v1/"), ("pk", User.objects.none()))
    values = [str(value) for value in found.order_by("pk").values_list(field, flat=True)[:4]]
    return {"token_key" if field == "token_key" else "id": values[turn % len(values)]} if values else {}


CALLERS: Final[dict[str, Account | None]] = {
    "anonymous": None,
    "user": Account("ada@example.com"),
    "operator": Account("operator@example.net", is_superuser=True),
}


def caller() -> Account | None:
    """Return whose requests this process sends."""
    return CALLERS[os.environ["CONTRACT_CALLER"]]


def furnish() -> None:
    """Write what there is to ask for: accounts with their mails, and receipts, one of which cannot be read."""
    for account in filter(None, CALLERS.values()):
        account.token()
    registration.register("carol@example.org", PASSWORD, "en")
    delivery = deliver("bob@example.org", "sent")
    post(delivery)
    post(delivery, b'{"Recipient": "bob@example.org"')
