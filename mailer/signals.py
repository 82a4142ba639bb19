"""What others may react to. How they are told, `users.signals.tell` says."""

from typing import Final

from django.dispatch import Signal

# A delivery's status is another one than before, whoever said so: sent once the change is committed, with `delivery`
# (as it is by then), `old_status` and `new_status`; the sender is `DeliveryStatus`. A receiver runs in the process that
# learned of the change, between other work: it should enqueue what takes time. One that raises is logged, and harms
# nothing. A process that dies right after the commit sends nothing: what must not be missed is in the table of events.
delivery_changed: Final = Signal()
