"""The WSGI application, for granian or gunicorn."""

import os

from django.core.wsgi import get_wsgi_application

from project.starting import check_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_wsgi_application()
check_settings()
