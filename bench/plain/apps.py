from django.apps import AppConfig


class PlainConfig(AppConfig):
    name = "bench.plain"
    label = "plain"

    def ready(self) -> None:
        from anymail.signals import tracking

        from bench.plain.models import on_tracking

        tracking.connect(on_tracking)
