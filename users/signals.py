"""What others may react to, inside the transaction that causes it.

`challenge_requested`: a new challenge was asked for by someone who already has an account.
    Arguments: `challenge` (EmailChallenge).
`registration_repeated`: somebody tried to register a taken and verified address. Arguments: `user`, its owner.
"""

from django.dispatch import Signal

challenge_requested = Signal()
registration_repeated = Signal()
