"""What became of a mail, as far as anybody told."""

from django.conf import settings
from django.db import models


class Mail(models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    status = models.CharField(max_length=16, default="queued")
    message_id = models.CharField(max_length=255, blank=True, db_index=True)

    class Meta:
        app_label = "baseline"

    def __str__(self):
        return f"mail {self.pk}"
