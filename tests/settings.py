"""The settings of the tests: the service's own, in an environment that names no real provider."""

import os

os.environ |= {
    "SECRET_KEY": "the-tests-sign-with-this-and-nobody-else-does-0123456789",
    "PUBLIC_URL": "http://testserver",
    "ALLOWED_HOSTS": "testserver,127.0.0.1",
    "DEFAULT_FROM_EMAIL": "Accounts <accounts@example.com>",
    "SITE_NAME": "Example",
    "MAIL_PROVIDERS": "resend,postmark",
    # Nothing listens there: a test that sends names its own simulator.
    "ANYMAIL_POSTMARK_API_URL": "http://127.0.0.1:9/postmark/",
    "ANYMAIL_POSTMARK_SERVER_TOKEN": "postmark-token",
    "ANYMAIL_RESEND_API_URL": "http://127.0.0.1:9/resend/",
    "ANYMAIL_RESEND_API_KEY": "re_key",
    "WEBHOOK_SECRET_POSTMARK": "hook:first-password,hook:second-password",
    "WEBHOOK_SECRET_RESEND": "whsec_Zmlyc3Qtc2VjcmV0LW9mLXRoZS10ZXN0cw==,whsec_c2Vjb25kLXNlY3JldC1vZi10aGUtdGVzdHM=",
    # A test of a limit sets it.
    "THROTTLES": "0",
    "DEBUG": "0",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "INFO",
}
# What mypy and a bare pytest need to import the settings; `make test` sets them to real servers.
os.environ.setdefault("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
os.environ.setdefault("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
os.environ.setdefault("REDIS_URL", "redis://127.0.0.1:1/0")

from project.settings import *  # noqa: F403  # the settings of the service, whole

# What is tested is that they are hashed, not how dear it is.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# The manifest's directory is made by `collectstatic`, at deployment.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = True
