import json

from django.contrib.auth.models import User
from django.db import transaction
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt

from tests.chaos.baseline import tasks
from tests.chaos.baseline.models import Mail


@csrf_exempt
def register(request):
    """Make a user and, once that is committed, ask a worker for the mail."""
    wanted = json.loads(request.body)
    with transaction.atomic():
        user = User.objects.create_user(wanted["email"], wanted["email"], wanted["password"])
        mail = Mail.objects.create(user=user)
        transaction.on_commit(lambda: tasks.send.delay(mail.pk))
    return JsonResponse({"status": "accepted"}, status=202)


def healthz(_request):
    return JsonResponse({"status": "ok"})


def on_tracking(event, **_):
    """Keep the latest news."""
    Mail.objects.filter(message_id=event.message_id).update(status=event.event_type)
