"""The ASGI application: what the web server loads."""

import os

import django

from project.starting import check_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup(set_prefix=False)

from project.web import Application  # noqa: E402  # it needs the settings

application = Application()
check_settings()
