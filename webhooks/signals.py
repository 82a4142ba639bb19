"""What others may react to.

`delivery_changed` tells of every change of a status, also those that our own sender and the sweep bring about: an event
that came before its message was known is matched by them. `anymail.signals.tracking` is sent for each new event.
"""

from mailer.signals import delivery_changed

__all__ = ["delivery_changed"]
