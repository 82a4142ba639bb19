"""What each service looks at before it starts."""

import sys

from django.core.checks import run_checks


def check_settings() -> None:
    """End a process whose settings cannot be right, with a line for each error that Django's checks find in mail."""
    found = run_checks(tags=["mailer"])
    if errors := [error for error in found if error.is_serious() and not error.is_silenced()]:
        sys.exit("\n".join(f"Configuration: {error.msg} ({error.id})" for error in errors))
