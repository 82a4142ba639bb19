from django.core.wsgi import get_wsgi_application

from tests.chaos.baseline.celery import app as celery_app  # so that `delay()` finds its broker

application = get_wsgi_application()

__all__ = ["application", "celery_app"]
