from anymail.message import AnymailMessage
from celery import shared_task

from tests.chaos.baseline.models import Mail


@shared_task(autoretry_for=(Exception,), retry_backoff=True, max_retries=10)
def send(mail_id):
    """Send a mail; again, later and later, where that fails."""
    mail = Mail.objects.select_related("user").get(pk=mail_id)
    message = AnymailMessage(subject="Verify your address", body="By this link: ...", to=[mail.user.email])
    message.send()
    Mail.objects.filter(pk=mail_id).update(status="sent", message_id=message.anymail_status.message_id)
