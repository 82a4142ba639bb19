"""What `startproject` writes, on the database and with the pool that the environment names."""

import os
from urllib.parse import unquote

from environ import Env

SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_database = Env.db_url_config(os.environ["DATABASE_URL"])
_database["HOST"] = unquote(_database["HOST"])
if pool_size := int(os.environ["DATABASE_POOL_SIZE"]):
    _database.setdefault("OPTIONS", {})["pool"] = {"min_size": 1, "max_size": pool_size, "timeout": 5}
DATABASES = {"default": _database}
