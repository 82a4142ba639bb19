"""What a new Django project and Anymail's documentation say, on the database, pool and server of the service."""

import os

from bench.fresh import *  # noqa: F403

ROOT_URLCONF = "bench.plain.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "anymail",
    "bench.plain.apps.PlainConfig",
]
ANYMAIL = {"WEBHOOK_SECRET": os.environ["WEBHOOK_SECRET_POSTMARK"]}
