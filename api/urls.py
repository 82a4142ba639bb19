"""Where each resource is, below /api/v1/."""

from django.urls import path

from api import accounts, audit, credentials, deliveries, receipts, registrations, replays, tokens

app_name = "api"
urlpatterns = [
    path("accounts/register", accounts.RegisterView.as_view(), name="register"),
    path("accounts/registrations/<uuid:pk>", registrations.RegistrationView.as_view(), name="registration"),
    path("accounts/verify-email", accounts.VerifyEmailView.as_view(), name="verify-email"),
    path("accounts/verify-email/resend", accounts.ResendView.as_view(), name="resend"),
    path("accounts/me", accounts.MeView.as_view(), name="me"),
    path("accounts/me/email", credentials.ChangeEmailView.as_view(), name="change-email"),
    path("accounts/me/password", credentials.ChangePasswordView.as_view(), name="change-password"),
    path("accounts/email-change/confirm", credentials.ConfirmEmailView.as_view(), name="confirm-email-change"),
    path("accounts/password-reset", credentials.ResetView.as_view(), name="password-reset"),
    path("accounts/password-reset/confirm", credentials.ConfirmResetView.as_view(), name="confirm-password-reset"),
    path("accounts/me/deliveries", deliveries.OwnDeliveryList.as_view(), name="own-deliveries"),
    path("accounts/me/deliveries/<uuid:pk>", deliveries.OwnDeliveryDetail.as_view(), name="own-delivery"),
    path("auth/tokens", tokens.TokensView.as_view(), name="tokens"),
    path("auth/tokens/<slug:token_key>", tokens.TokenView.as_view(), name="token"),
    path("audit", audit.AuditList.as_view(), name="audit"),
    path("deliveries", deliveries.DeliveryList.as_view(), name="deliveries"),
    path("deliveries/<uuid:pk>", deliveries.DeliveryDetail.as_view(), name="delivery"),
    path("webhook-receipts", receipts.ReceiptList.as_view(), name="webhook-receipts"),
    path("webhook-receipts/replay", replays.ReplayView.as_view(), name="replay-webhook-receipts"),
    path("webhook-receipts/<uuid:pk>", receipts.ReceiptDetail.as_view(), name="webhook-receipt"),
    path("webhook-receipts/<uuid:pk>/replay", receipts.ReceiptReplay.as_view(), name="replay-webhook-receipt"),
]
