"""Why a mail did not arrive, as Resend tells it: resend.com/docs/dashboard/emails/email-bounces."""

import pytest

from tests.webhooks import payloads
from tests.webhooks.providers.reading import fact_of
from webhooks.providers import resend

# Type, sub-type, diagnostic codes, status, category, enhanced code.
CAUSES = [
    ("Permanent", "General", ["smtp; 550 5.5.0 mailbox unavailable"], "bounced", "no_mailbox", "5.5.0"),
    ("Permanent", "NoEmail", None, "bounced", "no_mailbox", ""),
    ("Permanent", "Suppressed", ["smtp; 550 5.5.0 mailbox unavailable"], "suppressed", "no_mailbox", "5.5.0"),
    ("Permanent", "OnAccountSuppressionList", None, "suppressed", "other", ""),
    ("Transient", "General", ["smtp; 451 4.4.2 Bad connection"], "soft_bounced", "unreachable", "4.4.2"),
    ("Transient", "MailboxFull", ["smtp; 452 4.2.2 Full"], "soft_bounced", "mailbox_full", "4.2.2"),
    ("Transient", "MessageTooLarge", None, "soft_bounced", "policy", ""),
    ("Transient", "ContentRejected", None, "soft_bounced", "policy", ""),
    ("Transient", "AttachmentRejected", None, "soft_bounced", "policy", ""),
    ("Undetermined", "Undetermined", None, "soft_bounced", "", ""),
]


@pytest.mark.parametrize(("kind", "sub_type", "codes", "status", "category", "smtp_status"), CAUSES)
def test_cause_of_each_sub_type(kind, sub_type, codes, status, category, smtp_status):
    bounced = payloads.RESEND["email.bounced"]
    bounce = {"type": kind, "subType": sub_type, "message": ""} | ({"diagnosticCode": codes} if codes else {})

    fact = fact_of("resend", bounced | {"data": bounced["data"] | {"bounce": bounce}})

    assert (fact.status, fact.category, fact.smtp_status) == (status, category, smtp_status)


def test_every_sub_type_of_the_table_is_tested():
    assert {*resend.CATEGORIES, *resend.SUPPRESSIONS} <= {row[1] for row in CAUSES}


@pytest.mark.parametrize("codes", ["smtp; 550 5.1.1 Unknown user", 7, [None, {}], {"a": 1}])
def test_diagnostic_of_another_shape_is_read(codes):
    bounced = payloads.RESEND["email.bounced"]
    bounce = {"type": "Permanent", "subType": "General", "message": "Gone", "diagnosticCode": codes}

    assert fact_of("resend", bounced | {"data": bounced["data"] | {"bounce": bounce}}).status == "bounced"
