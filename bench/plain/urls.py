from anymail.webhooks.postmark import PostmarkTrackingWebhookView
from anymail.webhooks.sendgrid import SendGridTrackingWebhookView
from django.http import HttpResponse
from django.urls import path

urlpatterns = [
    path("healthz", lambda _request: HttpResponse("ok")),
    path("webhooks/postmark/", PostmarkTrackingWebhookView.as_view()),
    path("webhooks/sendgrid/", SendGridTrackingWebhookView.as_view()),
]
