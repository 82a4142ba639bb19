from django.apps import AppConfig


class BaselineConfig(AppConfig):
    name = "tests.chaos.baseline"
    label = "baseline"

    def ready(self):
        from anymail.signals import tracking

        from tests.chaos.baseline.views import on_tracking

        tracking.connect(on_tracking)
