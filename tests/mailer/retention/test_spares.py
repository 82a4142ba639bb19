"""What is left alone by all that forgets: what is in doubt and still asked after, and what is somebody else's."""

from django.db.models.functions import Now

from mailer import retention
from mailer.models import Attempt, Batch, DeliveryStatus, Message
from tests.mailer.conftest import change, enqueue, read
from tests.mailer.retention.conftest import BODY, DAY, aged, cleanup
from users.models import User


def test_mail_in_doubt_ages_from_its_first_doubt_not_from_when_it_was_written(db):
    message = aged("unknown", 500, first_ambiguous_at=Now() - 29 * DAY)

    assert cleanup() == {}
    change(message, first_ambiguous_at=Now() - 31 * DAY)

    assert cleanup() == {"bodies in doubt": 1}


def test_mail_in_doubt_stays_whole_while_it_is_asked_after(db):
    message = aged("unknown", 500, secret=True, expires_at=Now() - DAY, inquire_at=Now() + DAY)

    assert cleanup() == {}
    assert read(message).content == BODY
    change(message, inquire_at=None)

    assert cleanup()["messages in doubt"] == 1


def test_mail_in_doubt_stays_while_its_batch_may_be_repeated(db):
    message = aged("unknown", 500)
    batch = Batch.objects.create(provider="resend", body="[]", message_ids=[message.pk], repeat_at=Now() + DAY)
    Attempt.objects.create(message=message, token=1, provider="resend", batch_id=batch.pk)

    assert cleanup() == {}
    batch.delete()

    assert cleanup()["messages in doubt"] == 1
    assert not Message.objects.exists()


def test_erasing_a_user_spares_a_former_address_that_is_somebody_elses_by_now(db):
    user = User.objects.create_user("new@example.com")
    Message.objects.all().delete()
    for address in ("former@example.com", "passed-on@example.com"):
        enqueue(address, user=user)
    User.objects.create_user("Passed-On@example.com")

    retention.erase_user(user)

    assert {*DeliveryStatus.objects.values_list("recipient", flat=True)} == {
        "", "passed-on@example.com", "Passed-On@example.com",
    }  # fmt: skip
