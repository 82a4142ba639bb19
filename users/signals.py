"""What others may react to, inside the transaction that causes it.

`challenge_requested`: a new challenge was asked for. Where it has no user, nobody is to get a mail, and what is
    written is to cost the same. Arguments: `challenge` (EmailChallenge).
`registration_repeated`: somebody tried to take an address that has an account. Arguments: `user`, its owner;
    `challenge`, what was made for who tried.
`email_change_requested`: a user wants another address. Arguments: `user`.
`email_changed`: a user has another address. Arguments: `user`; `old_email`, the former one; `challenge`.
`password_changed`: a user has another password, by their own doing. Arguments: `user`.
"""

from django.dispatch import Signal

challenge_requested = Signal()
registration_repeated = Signal()
email_change_requested = Signal()
email_changed = Signal()
password_changed = Signal()
