"""The worker's consumer, where its broker dies in the middle of a task."""

import pytest
from celery import current_app
from celery.exceptions import CPendingDeprecationWarning
from django.conf import settings

from project.valkey import Valkey
from tests.brokers import spoken_to
from tests.conftest import PATIENCE


@pytest.fixture
def valkey(tmp_path):
    valkey = Valkey(tmp_path / "valkey", volatile=True)
    valkey.start()
    with spoken_to(valkey.url):
        yield valkey
    valkey.stop()


def test_broker_lost_with_a_task_that_is_not_acknowledged_the_worker_goes_on(valkey):
    # Its parts are made, and none is started.
    consumer = current_app.WorkController(pool_cls="solo").consumer
    consumer.connection = consumer.connect()
    queues = current_app.amqp.queues
    tasks, hints = queues[settings.CELERY_TASK_DEFAULT_QUEUE], queues[settings.HINTS_QUEUE]
    received = []
    # Several channels, as the worker has them: the one that was made last is closed first, and fails.
    for channel, queue in ((consumer.connection.default_channel, tasks), (consumer.connection.channel(), hints)):
        current_app.amqp.TaskConsumer(channel, [queue], callbacks=[lambda _, m: received.append(m)]).consume()
    current_app.send_task("a task", queue=tasks.name)
    consumer.connection.drain_events(timeout=PATIENCE)
    with pytest.raises(TimeoutError):
        consumer.connection.drain_events(timeout=0.1)  # it waits for the next one
    valkey.kill()
    with pytest.raises(consumer.connection_errors) as lost:
        received[0].ack()

    with pytest.warns(CPendingDeprecationWarning):  # of a setting that is what it will not be in Celery 6
        consumer.on_connection_error_after_connected(lost.value)

    assert consumer.connection is None
