"""Where the pages behind the links are."""

from django.urls import path

from users.views import ChangeEmailPage, ResetPasswordPage, VerifyEmailPage

app_name = "users"
urlpatterns = [
    path("verify-email", VerifyEmailPage.as_view(), name="verify-email"),
    path("change-email", ChangeEmailPage.as_view(), name="change-email"),
    path("reset-password", ResetPasswordPage.as_view(), name="reset-password"),
]
