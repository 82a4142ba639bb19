"""Amazon SES, which reports through a topic of Amazon SNS.

Sources: docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html and -examples.html;
docs.aws.amazon.com/sns/latest/dg/{sns-verify-signature-of-message,sns-message-and-json-formats}.html and
/SendMessageToHttp.retry.html: three repeats, 20 seconds apart, and none after a 4xx but 429.

A receiver that checks the signature asks Amazon for the certificate, which has none of the key here: it takes these
reports only where it is given the certificate, as ours is in development (WEBHOOK_SIMULATED_CERTIFICATE). A topic's
confirmation it passes on to Amazon, which knows nothing of it.
"""

import base64
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from simulator.mail import addresses, rfc3339
from simulator.reports.base import (
    AGENT,
    IP,
    MAILBOX_FULL,
    NO_SUCH_USER,
    TAKEN,
    TIMED_OUT,
    Build,
    Check,
    Event,
    Happening,
    Posted,
    Reports,
    Scheme,
    Sending,
    with_metadata,
)
from simulator.reports.schemes import RSA, new_rsa, private_text

NAME = "amazon_ses"
TOPIC = "arn:aws:sns:us-east-1:123456789012:simulator"
ACCOUNT = "123456789012"
MTA = "a8-50.smtp-out.amazonses.com"
# By type, in that order.
SIGNED = {
    "Notification": ("Message", "MessageId", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
TOO_MANY = 429


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, and the key that it signs by."""

    arn: str
    key: RSAPrivateKey

    @property
    def certificate_url(self) -> str:
        _, partition, _, region, *_ = self.arn.split(":")
        host = f"sns.{region}.amazonaws.com" + (".cn" if partition == "aws-cn" else "")
        return f"https://{host}/SimpleNotificationService-{uuid.uuid5(uuid.NAMESPACE_URL, self.arn).hex}.pem"


def certificate(topic: Topic) -> bytes:
    """Return a certificate of a topic's key, in PEM, good for some days."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, topic.key.public_key(), x509.random_serial_number())
    valid = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
    return valid.sign(topic.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def one_line(pem: bytes) -> str:
    """Return a certificate in one line, as an environment has it: what stands between the first line and the last."""
    return "".join(pem.decode().split("\n")[1:-2])


def _read(text: str) -> Topic:
    arn, _, key = text.partition(" ")
    if arn.count(":") != TOPIC.count(":"):
        raise ValueError("it begins with a topic's ARN")
    return Topic(arn, RSA.read(key))


SCHEME = Scheme(
    make=lambda: (f"{TOPIC} {private_text(new_rsa())}", TOPIC),
    read=_read,
    other=lambda topic: replace(topic, key=new_rsa()),
    looks=f"a topic's ARN, a space and {RSA.looks}",
)


def _mail(happened: Happening) -> Event:
    mail = happened.mail
    return {
        "timestamp": rfc3339(mail.accepted_at, 3),
        "source": mail.sender,
        "sendingAccountId": ACCOUNT,
        "messageId": mail.id,
        "destination": mail.recipients,
        "headersTruncated": False,
        "headers": with_metadata(mail.headers, mail.metadata) + [{"name": "X-Tag", "value": tag} for tag in mail.tags],
        "commonHeaders": {
            "from": addresses([mail.sender]),
            "to": mail.recipients,
            "messageId": mail.id,
            "subject": mail.subject,
        },
        "tags": {"ses:configuration-set": ["simulator"]},
    }


# Objects that say no time of their own.
TIMELESS = {"reject", "failure", "send"}


def _tells(kind: str, name: str, **about: Any) -> Build:
    def build(happened: Happening) -> Event:
        times = {} if name in TIMELESS else {"timestamp": rfc3339(happened.at, 3)}
        return {"eventType": kind, "mail": _mail(happened), name: {**times, **about}}

    return build


def _concerning(kind: str, name: str, listed: str, recipient: Event, **about: Any) -> Build:
    def build(happened: Happening) -> Event:
        entry = {"emailAddress": happened.recipient, **recipient}
        known = {} if kind == "DeliveryDelay" else {"feedbackId": str(uuid.uuid4())}
        return _tells(kind, name, **known, **about, **{listed: [entry]})(happened)

    return build


def _bounce(bounce_type: str, subtype: str, **recipient: str) -> Build:
    about = {"bounceType": bounce_type, "bounceSubType": subtype, "reportingMTA": f"dsn; {MTA}"}
    return _concerning("Bounce", "bounce", "bouncedRecipients", recipient, **about)


def _delivery(happened: Happening) -> Event:
    about = {"processingTimeMillis": 500, "recipients": [happened.recipient], "smtpResponse": TAKEN}
    return _tells("Delivery", "delivery", reportingMTA=MTA, **about)(happened)


def _click(happened: Happening) -> Event:
    return _tells("Click", "click", ipAddress=IP, userAgent=AGENT, link=happened.link, linkTags=None)(happened)


def _preferences(*, out: bool) -> Event:
    topics = [{"topicName": "mails", "subscriptionStatus": "OptOut" if out else "OptIn"}]
    return {"unsubscribeAll": out, "topicSubscriptionStatus": topics, "topicDefaultSubscriptionStatus": topics}


EVENTS: dict[str, tuple[Build, ...]] = {
    "sent": (_tells("Send", "send"),),
    "delivered": (_delivery,),
    "deferred": (
        _concerning(
            "DeliveryDelay",
            "deliveryDelay",
            "delayedRecipients",
            {"status": "4.4.1", "diagnosticCode": f"smtp; {TIMED_OUT}"},
            delayType="TransientCommunicationFailure",
        ),
    ),
    "soft_bounced": (
        _bounce("Transient", "MailboxFull", action="failed", status="4.2.2", diagnosticCode=f"smtp; {MAILBOX_FULL}"),
    ),
    "bounced": (
        _bounce("Permanent", "General", action="failed", status="5.1.1", diagnosticCode=f"smtp; {NO_SUCH_USER}"),
    ),
    "suppressed": (_bounce("Permanent", "OnAccountSuppressionList"),),
    "complained": (_concerning("Complaint", "complaint", "complainedRecipients", {}, complaintFeedbackType="abuse"),),
    "rejected": (_tells("Reject", "reject", reason="Bad content"),),
    "failed": (_tells("Rendering Failure", "failure", errorMessage="Attribute is not present", templateName="mail"),),
    "opened": (_tells("Open", "open", ipAddress=IP, userAgent=AGENT),),
    "clicked": (_click,),
    "unsubscribed": (
        _tells(
            "Subscription",
            "subscription",
            contactList="people",
            source="UnsubscribeHeader",
            newTopicPreferences=_preferences(out=True),
            oldTopicPreferences=_preferences(out=False),
        ),
    ),
}


def _notification(events: list[Event]) -> Event:
    """Publish an event: what SNS says of it is the same in each repeat."""
    return _message("Notification", orjson.dumps(events[0]).decode())


def _confirmation() -> Event:
    """Ask whether the address wants a topic; who does tells Amazon by the token, not by the address that is named."""
    more = {
        "Token": uuid.uuid4().hex,
        "SubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
    }
    return {**_message("SubscriptionConfirmation", "You have chosen to subscribe to the topic."), **more}


def _trial() -> Event:
    return _message("Notification", "Successfully validated SNS topic for Amazon SES event publishing.")


def _message(kind: str, text: str) -> Event:
    return {
        "Type": kind,
        "MessageId": str(uuid.uuid4()),
        "Message": text,
        "Timestamp": rfc3339(datetime.now(UTC), 3),
        "SignatureVersion": "2",
    }


def _sign(body: str, sending: Sending, topic: Topic) -> Posted:
    message: Event = {**orjson.loads(body), "TopicArn": topic.arn}
    text = "".join(f"{name}\n{message[name]}\n" for name in SIGNED[message["Type"]]).encode()
    signature = base64.b64encode(topic.key.sign(text, PKCS1v15(), hashes.SHA256())).decode()
    message |= {"Signature": signature, "SigningCertURL": topic.certificate_url}
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "User-Agent": "Amazon Simple Notification Service Agent",
        "x-amz-sns-message-type": message["Type"],
        "x-amz-sns-message-id": message["MessageId"],
        "x-amz-sns-topic-arn": topic.arn,
        "x-amz-sns-subscription-arn": f"{topic.arn}:{sending.id}",
    }
    return Posted(orjson.dumps(message), headers)


def _is_retried(status: int | None) -> bool:
    return status is None or status == TOO_MANY or status not in range(200, 500)


REPORTS = Reports(
    name=NAME,
    events=EVENTS,
    kind=lambda event: str(event["eventType"]),
    scheme=SCHEME,
    sign=_sign,
    retries=(20.0, 20.0, 20.0),
    is_retried=_is_retried,
    timeout=15.0,
    whole=_notification,
    checks=(Check("POST", _confirmation), Check("POST", _trial)),
)
