"""The ASGI application, for those who deploy under ASGI."""

import os

from django.core.asgi import get_asgi_application

from project.starting import check_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_asgi_application()
check_settings()
