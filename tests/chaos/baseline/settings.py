"""Celery's and Anymail's defaults, but for retries with backoff, which a careful developer adds."""

import os
from urllib.parse import unquote

from environ import Env

SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
ROOT_URLCONF = "tests.chaos.baseline.urls"
WSGI_APPLICATION = "tests.chaos.baseline.wsgi.application"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "anymail", "tests.chaos.baseline"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["users.hashers.Argon2idHasher"]  # as dear as the service's

_database = Env.db_url_config(os.environ["DATABASE_URL"])
_database["HOST"] = unquote(_database["HOST"])
DATABASES = {"default": {**_database, "CONN_MAX_AGE": 300, "CONN_HEALTH_CHECKS": True}}

EMAIL_BACKEND = "anymail.backends.resend.EmailBackend"
DEFAULT_FROM_EMAIL = os.environ["DEFAULT_FROM_EMAIL"]
ANYMAIL = {
    "RESEND_API_URL": os.environ["ANYMAIL_RESEND_API_URL"],
    "RESEND_API_KEY": os.environ["ANYMAIL_RESEND_API_KEY"],
    "RESEND_SIGNING_SECRET": os.environ["WEBHOOK_SECRET_RESEND"],
}

CELERY_BROKER_URL = os.environ["CELERY_BROKER_URL"]
