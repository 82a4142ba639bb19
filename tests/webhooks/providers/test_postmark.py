"""Why a mail did not arrive, as Postmark tells it: postmarkapp.com/developer/api/bounce-api#bounce-types."""

import pytest

from tests.webhooks import payloads
from tests.webhooks.providers.reading import fact_of
from webhooks.providers import postmark

SAID = "smtp;550 5.7.1 Blocked using Spamhaus"
# Type, TypeCode, what the server said, status, category, enhanced code.
CAUSES = [
    ("HardBounce", 1, "smtp;550 5.1.1 No such user", "bounced", "no_mailbox", "5.1.1"),
    ("HardBounce", 1, None, "bounced", "", ""),
    ("Transient", 2, "smtp;451 4.4.1 No answer", "deferred", "unreachable", "4.4.1"),
    ("DnsError", 256, None, "deferred", "dns", ""),
    ("OpenRelayTest", 1024, None, "deferred", "policy", ""),
    ("SoftBounce", 4096, "smtp;552 5.2.2 Over quota", "soft_bounced", "mailbox_full", "5.2.2"),
    ("VirusNotification", 8192, None, "bounced", "policy", ""),
    ("BadEmailAddress", 100000, None, "rejected", "no_mailbox", ""),
    ("ManuallyDeactivated", 100002, None, "rejected", "policy", ""),
    ("Unconfirmed", 100003, None, "rejected", "policy", ""),
    ("Blocked", 100006, SAID, "rejected", "spam", "5.7.1"),
    ("SMTPApiError", 100007, "An error occurred", "suppressed", "other", ""),
    ("DMARCPolicy", 100009, SAID, "rejected", "policy", "5.7.1"),
    ("TemplateRenderingFailed", 100010, "No such template", "failed", "other", ""),
    ("SpamComplaint", 100001, None, "complained", "", ""),
    ("AutoResponder", 64, SAID, None, "", ""),
]


@pytest.mark.parametrize(("kind", "code", "details", "status", "category", "smtp_status"), CAUSES)
def test_cause_of_each_type(kind, code, details, status, category, smtp_status):
    bounce = payloads.POSTMARK["Bounce"] | {"Type": kind, "TypeCode": code, "Details": details, "Description": ""}

    fact = fact_of("postmark", bounce)

    assert (fact.status, fact.category, fact.smtp_status) == (status, category, smtp_status)
    assert fact.detail == (details or "")


def test_every_type_of_the_table_is_tested():
    assert {*postmark.BOUNCES, postmark.SUPPRESSED} <= {row[0] for row in CAUSES}


def test_delivery_has_no_cause():
    fact = fact_of("postmark", payloads.POSTMARK["Delivery"])

    assert (fact.category, fact.smtp_status) == ("", "")
