from anymail.webhooks.resend import ResendTrackingWebhookView
from django.urls import path

from tests.chaos.baseline import views

urlpatterns = [
    path("register", views.register),
    path("healthz", views.healthz),
    path("webhooks/resend/", ResendTrackingWebhookView.as_view()),
]
