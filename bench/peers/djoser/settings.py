"""By djoser's documentation (getting_started.rst, settings.rst), with its activation mail."""

from bench.peers.settings import *  # noqa: F403
from bench.peers.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "djoser"]
ROOT_URLCONF = "bench.peers.djoser.urls"
DJOSER = {"SEND_ACTIVATION_EMAIL": True, "ACTIVATION_URL": "activate/{uid}/{token}"}
DOMAIN = "accounts.example.com"
SITE_NAME = "Example"
