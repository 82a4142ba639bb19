"""Where the pages behind the links are."""

from django.urls import path

from users.views import ChangeEmailPage, NewResetPage, NewVerificationPage, ResetPasswordPage, VerifyEmailPage

app_name = "users"
urlpatterns = [
    path("verify-email", VerifyEmailPage.as_view(), name="verify-email"),
    path("verify-email/new-link", NewVerificationPage.as_view(), name="verify-email-new-link"),
    path("change-email", ChangeEmailPage.as_view(), name="change-email"),
    path("reset-password", ResetPasswordPage.as_view(), name="reset-password"),
    path("reset-password/new-link", NewResetPage.as_view(), name="reset-password-new-link"),
]
