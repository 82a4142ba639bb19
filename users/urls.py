"""Where the page behind the link is."""

from django.urls import path

from users.views import VerifyEmailPage

app_name = "users"
urlpatterns = [path("verify-email", VerifyEmailPage.as_view(), name="verify-email")]
