"""What the simulator posts as each provider, through the URL: taken, and what it says is the delivery's status."""

from functools import cache

import pytest
from anymail.exceptions import AnymailNotSupportedWarning
from django.utils import timezone

from mailer import couriers, letters, sender
from mailer.models import DeliveryEvent
from project.environment import Environment
from project.mail import read_simulated_certificate
from simulator import commands
from simulator.behaviour import WORDS
from simulator.faults import Dice, Faults
from simulator.mail import Mail
from simulator.planning import Planner
from simulator.reports import REPORTS, Happening, Sending, amazon_ses
from tests.conftest import Simulator, wait_until
from tests.mailer import tiny
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of
from tests.webhooks.providers.amazon import CONFIRMED
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, sns

pytestmark = pytest.mark.filterwarnings(f"ignore::{AnymailNotSupportedWarning.__module__}.AnymailNotSupportedWarning")

# What befalls a mail -> the status of its delivery, which was sent.
STATUSES = dict(zip(WORDS, WORDS, strict=True)) | dict.fromkeys(("opened", "clicked", "unsubscribed"), "delivered")
TOLD = [(name, word) for name, reports in REPORTS.items() for word in reports.events]
BATCHING = [name for name, reports in REPORTS.items() if reports.batch > 1]
WITHOUT_METADATA = {"mailersend", "postal"}
# As each writes the ids of mails.
IDS = {"mailjet": "19421777835146490", "postal": "12345", "mailgun": "<20261120174255.58bb7ce8@mg.example.com>"}
PLAIN_ID = "1ab23cd4-e567-4901-8345-6789f0a91b2c"


@cache
def secrets_of(name):
    """Return what the provider signs by, and what we know of it; of some it is dear to make."""
    return REPORTS[name].scheme.make()


@cache
def key_of(name):
    return REPORTS[name].scheme.read(secrets_of(name)[0])


@cache
def other_key(name):
    return REPORTS[name].scheme.other(key_of(name))


@pytest.fixture(autouse=True)
def _secrets(settings, monkeypatch):
    settings.WEBHOOK_SECRETS = {name: [secrets_of(name)[1]] for name in REPORTS}
    topic = key_of("amazon_ses")
    settings.WEBHOOK_SIMULATED_CERTIFICATE = amazon_ses.certificate(topic)
    monkeypatch.setattr(sns, "CERTIFICATES", sns.Certificates())


def mail_to(provider, identifier, *recipients, **fields):
    return Mail(
        provider=provider,
        sender="Accounts <accounts@example.com>",
        recipients=[*recipients] or [payloads.RECIPIENT],
        subject="Welcome",
        text="Open https://example.com/welcome.",
        html="",
        headers={},
        payload={},
        tags=["welcome"],
        id=identifier,
        **{"metadata": {}, **fields},
    )


def hooks_of(happened, batch=1, **faults):
    counter = iter(range(1, 10_000))
    planner = Planner(counter.__next__, REPORTS)
    return planner.report(happened, batch, Dice(Faults(**faults)))


def happening(mail, word, recipient=payloads.RECIPIENT):
    return Happening(mail, recipient, word, timezone.now())


@pytest.fixture
def post(client):
    """Post a webhook as the simulator does; return the status of the answer."""

    def send(hook, key=None):
        url = f"/webhooks/{hook.provider}/"
        sending = Sending(hook.id, hook.attempts, f"http://testserver{url}")
        hook.attempts += 1
        posted = REPORTS[hook.provider].sign(hook.body, sending, key or key_of(hook.provider))
        headers = {"Content-Type": "application/json", **posted.headers}
        content_type = headers.pop("Content-Type")
        return client.post(url, posted.body, content_type=content_type, headers=headers).status_code

    return send


def test_service_in_development_takes_the_simulator_for_amazon(settings, monkeypatch, post, sent):
    said = commands.environment("http://127.0.0.1:8000")
    monkeypatch.setenv("WEBHOOK_SIMULATED_CERTIFICATE", said["WEBHOOK_SIMULATED_CERTIFICATE"])
    settings.WEBHOOK_SIMULATED_CERTIFICATE = read_simulated_certificate(Environment(), "127.0.0.1", debug=True)
    settings.WEBHOOK_SECRETS = {"amazon_ses": [said["WEBHOOK_TOPICS_AMAZON_SES"]]}
    message = sent("amazon_ses", PLAIN_ID)
    [hook] = hooks_of([happening(mail_to("amazon_ses", PLAIN_ID), "delivered")])
    theirs = amazon_ses.SCHEME.read(said["SIMULATOR_AMAZON_SES_SECRET"])

    assert post(hook, amazon_ses.SCHEME.other(theirs)) == 401
    assert post(hook, theirs) == 200
    assert delivery_of(message).status == "delivered"


def test_only_a_service_on_this_machine_is_told_to_take_the_simulator_for_amazon():
    elsewhere = commands.environment("https://accounts.example.com")

    assert not [name for name in elsewhere if "AMAZON" in name or "CERTIFICATE" in name]


def test_every_provider_with_webhooks_is_simulated():
    assert REPORTS.keys() == WEBHOOKS.keys()


def test_no_word_is_told_by_nobody():
    assert {word for _, word in TOLD} == {*WORDS}


@pytest.mark.parametrize(("provider", "word"), TOLD)
def test_report_is_taken_and_finds_its_mail_by_the_providers_id(post, sent, provider, word):
    identifier = IDS.get(provider, PLAIN_ID)
    message = sent(provider, identifier)
    hooks = hooks_of([happening(mail_to(provider, identifier), word)])

    answers = [post(hook) for hook in hooks]

    assert {*answers} == {200}
    delivery = delivery_of(message)
    assert delivery.status == STATUSES[word]
    assert (delivery.open_count, delivery.click_count) == (word == "opened", word == "clicked")
    assert (delivery.unsubscribed_at is not None) == (word == "unsubscribed")
    receipts = WebhookReceipt.objects.all()
    assert {(receipt.state, receipt.unreadable) for receipt in receipts} == {("processed", 0)}


@pytest.mark.parametrize("provider", sorted(REPORTS.keys() - WITHOUT_METADATA))
def test_report_finds_its_mail_by_our_id(post, sent, provider):
    message = sent(provider, "another-id")
    mail = mail_to(provider, IDS.get(provider, PLAIN_ID), metadata={"message_id": str(message.pk)})

    [hook] = hooks_of([happening(mail, "delivered")])

    assert post(hook) == 200
    assert delivery_of(message).status == "delivered"


@pytest.mark.django_db
@pytest.mark.parametrize("provider", REPORTS)
def test_report_signed_by_another_secret_is_refused(post, provider):
    [hook] = hooks_of([happening(mail_to(provider, PLAIN_ID), "delivered")])

    assert post(hook, other_key(provider)) == 401
    assert not WebhookReceipt.objects.exists()


@pytest.mark.parametrize(("provider", "word"), TOLD)
def test_doubled_report_changes_nothing(post, sent, provider, word):
    identifier = IDS.get(provider, PLAIN_ID)
    message = sent(provider, identifier)
    hooks = hooks_of([happening(mail_to(provider, identifier), word)])
    for hook in hooks:
        post(hook)
    before = delivery_of(message)

    again = [post(hook) for hook in hooks]

    assert {*again} == {200}
    after = delivery_of(message)
    assert (after.status, after.open_count, after.click_count) == (before.status, before.open_count, before.click_count)
    assert [receipt.new_events for receipt in WebhookReceipt.objects.order_by("id")][-len(hooks) :] == [0] * len(hooks)


@pytest.mark.parametrize("provider", BATCHING)
def test_batch_is_taken_whole_and_in_any_order(post, sent, provider):
    ids = [str(19421777835146490 + 100 * number) for number in range(3)]
    messages = [sent(provider, identifier) for identifier in ids]
    happened = [
        happening(mail_to(provider, identifier), word)
        for identifier in ids
        for word in ("opened", "delivered", "complained")
    ]

    [hook] = hooks_of(happened, batch=500, webhook_shuffle=True, seed=7)

    assert post(hook) == 200
    assert {delivery_of(message).status for message in messages} == {"complained"}
    assert DeliveryEvent.objects.filter(source="webhook").count() >= 9


@pytest.mark.parametrize("provider", sorted(REPORTS.keys() - {*BATCHING}))
def test_who_does_not_batch_posts_each_alone(provider):
    mail = mail_to(provider, PLAIN_ID)

    hooks = hooks_of([happening(mail, "delivered"), happening(mail, "delivered")], batch=500)

    assert len(hooks) == 2


@pytest.fixture(scope="module")
def reporting(live_server, tmp_path_factory):
    """Run a simulator that posts to this process's web server; return it, and the secrets of the service."""
    told = commands.environment(live_server.url)
    ours, theirs = secrets_of("amazon_ses")
    told |= {
        "SIMULATOR_AMAZON_SES_WEBHOOK": f"{live_server.url}/webhooks/amazon_ses/",
        "SIMULATOR_AMAZON_SES_SECRET": ours,
        "WEBHOOK_TOPICS_AMAZON_SES": theirs,
    }
    its = {name: value for name, value in told.items() if name.startswith("SIMULATOR_")}
    with Simulator.started(tmp_path_factory.mktemp("simulator"), SIMULATOR_TIME_SCALE="0.02", **its) as simulator:
        yield simulator, {name: [told[webhook.variable]] for name, webhook in WEBHOOKS.items()}


@pytest.fixture
def simulator(reporting, live_server, settings):
    """The simulator of this module, whose webhooks the service takes."""
    simulator, settings.WEBHOOK_SECRETS = reporting
    settings.PUBLIC_URL = live_server.url
    simulator.reset()
    return simulator


@pytest.mark.parametrize("provider", REPORTS)
def test_person_has_a_report_posted_over_http(simulator, sent, capsys, provider):
    identifier = IDS.get(provider, PLAIN_ID)
    message = sent(provider, identifier)
    asked = [provider, "bounced", "delivered", "--mail", identifier, "--to", payloads.RECIPIENT]
    asked += ["--simulator", simulator.url]

    forged = commands.report([*asked, "--forged"])
    before = delivery_of(message).status
    genuine = commands.report([*asked, "--batch", "2", "--doubled", "--shuffled"])

    assert (forged, before) == (1, "sent")
    assert genuine == 0
    assert delivery_of(message).status == "bounced"
    said = capsys.readouterr().out.splitlines()
    assert {line.rpartition(" ")[2] for line in said} == {"401", "200"}


@pytest.fixture
def amazon(boto3_at):
    """Amazon's API, which confirms whatever it is asked to."""
    with tiny.serving(lambda: (200, {}, CONFIRMED)) as server:
        boto3_at(server.url)
        yield server


@pytest.mark.parametrize("provider", [name for name, reports in REPORTS.items() if reports.checks])
def test_address_is_checked_before_it_is_reported_to(simulator, settings, capsys, amazon, provider):
    known = [check.key for check in REPORTS[provider].checks if check.key]
    settings.WEBHOOK_SECRETS = {provider: [*settings.WEBHOOK_SECRETS[provider], *known]}

    assert commands.check([provider, "--simulator", simulator.url]) == 0

    said = capsys.readouterr().out.splitlines()
    assert said == [f"{provider} {check.method}: 200" for check in REPORTS[provider].checks]
    assert not DeliveryEvent.objects.filter(source="webhook").exists()
    assert len(amazon.requests) == (provider == "amazon_ses")


@pytest.fixture
def through(simulator, settings):
    """Send through one provider of the simulator."""

    def through(provider):
        settings.MAIL_PROVIDERS = [provider]
        settings.ANYMAIL = {**settings.ANYMAIL, **simulator.anymail}
        letters.backend_at.cache_clear()

    yield through
    couriers.close()
    letters.backend_at.cache_clear()


# Of an address -> what becomes of a mail to it.
ENDS = {"delivered": "delivered", "bounce": "bounced", "soft": "soft_bounced", "complain": "complained"}


@pytest.mark.parametrize("provider", ["postmark", "resend", "mailjet", "sendgrid"])
def test_mail_comes_back_from_each_send_api(through, enqueued, provider):
    through(provider)
    messages = {local: enqueued(f"{local}@example.com") for local in ENDS}

    sender.drain()

    def ends():
        return {local: delivery_of(message).status for local, message in messages.items()}

    wait_until(lambda: ends() == ENDS)
    known = DeliveryEvent.objects.filter(source="webhook").exclude(esp_message_id="")
    for message in messages.values():
        assert {event.esp_message_id for event in known.filter(delivery__message=message)} == {
            delivery_of(message).esp_message_id
        }
