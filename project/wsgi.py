"""The WSGI application, for those who deploy under WSGI: behind a proxy that reads whole bodies, and in time."""

import os

from django.core.wsgi import get_wsgi_application

from project.starting import check_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_wsgi_application()
check_settings()
