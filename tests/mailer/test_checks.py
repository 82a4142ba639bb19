"""What the settings cannot know of themselves."""

from django.core.checks import run_checks


def test_route_of_a_kind_that_does_not_exist_is_an_error(settings):
    settings.MAIL_ROUTES = {"welcome": ["resend"], "farewell": ["resend"]}

    [error] = [message for message in run_checks() if message.id == "mailer.E001"]

    assert error.is_serious()
    assert "'farewell' is not one of" in error.msg


def test_routes_of_kinds_pass(settings):
    settings.MAIL_ROUTES = {"welcome": ["resend"]}

    assert not [message for message in run_checks() if message.id == "mailer.E001"]
