"""What others may react to, and how they are told after a commit: whatever they do then, it harms nobody else.

Inside the transaction that causes it:

`challenge_requested`: a new challenge was asked for. Where it has no user, nobody is to get a mail, and what is
    written is to cost the same. Arguments: `challenge` (EmailChallenge).
`registration_repeated`: somebody tried to take an address that has an account. Arguments: `user`, its owner;
    `challenge`, what was made for who tried.
`email_change_requested`: a user wants another address. Arguments: `user`.
`email_changed`: a user has another address. Arguments: `user`; `old_email`, the former one; `challenge`.
`password_changed`: a user has another password, by their own doing. Arguments: `user`.

Once it is committed, each receiver by itself (`tell`), with `user`; the sender is `User`. A receiver runs in the
process that made the change, before that answers: it should enqueue what takes time. A process that dies right after
the commit tells nobody: what must not be missed is in the audit.

`registered`: there is a new user, however it was saved, but by a fixture or `bulk_create`.
`email_verified`: the address of a user was verified.
"""

import traceback
from typing import Any, Final

import structlog
from asgiref.sync import async_to_sync
from django.dispatch import Signal

log = structlog.get_logger(__name__)

challenge_requested = Signal()
registration_repeated = Signal()
email_change_requested = Signal()
email_changed = Signal()
password_changed = Signal()
registered: Final = Signal()
email_verified: Final = Signal()


def tell(signal: Signal, sender: type, **what: Any) -> None:
    """Call each receiver of a signal; one that raises is logged by its name, without what it says: that may quote.

    Not by `Signal.send_robust`: where a receiver without a name raises (an object, a partial), Django 5.2 fails to log
    it, and calls none of those after it.
    """
    receivers, asynchronous = signal._live_receivers(sender)  # noqa: SLF001  # nothing public tells who listens
    for receiver in [*receivers, *map(async_to_sync, asynchronous)]:
        try:
            receiver(signal=signal, sender=sender, **what)
        except Exception as error:  # noqa: BLE001  # it is not ours
            [*_, last] = traceback.extract_tb(error.__traceback__)
            log.error(  # noqa: TRY400  # the text may quote an address
                "receiver_failed",
                receiver=getattr(receiver, "__qualname__", type(receiver).__qualname__),
                error_class=type(error).__name__,
                place=f"{last.filename}:{last.lineno}",
            )
