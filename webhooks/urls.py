"""Where providers report."""

from django.urls import path

from webhooks.views import WebhookView

app_name = "webhooks"
urlpatterns = [path("<slug:esp>/", WebhookView.as_view(), name="receive")]
