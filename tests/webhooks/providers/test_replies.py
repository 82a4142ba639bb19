"""Replies of mail servers, as they are seen in the wild."""

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from webhooks.providers.base import CATEGORIES
from webhooks.providers.replies import category_of, smtp_status_in


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("550 5.1.1 The email account that you tried to reach does not exist.", "5.1.1"),
        ("550-5.1.1 The email account\r\n550 5.1.1 does not exist", "5.1.1"),
        ("smtp;452 4.2.2 Mailbox full", "4.2.2"),
        ("554 #5.7.1 message refused", "5.7.1"),
        ("host mx.example.com[192.0.2.5] said: 550 5.7.26 unauthenticated", "5.7.26"),
        ("5.1.10 (null MX)", "5.1.10"),
        ("delivery failed (5.4.4).", "5.4.4"),
        ("250 2.0.0 OK 1477944899 - gsmtp", "2.0.0"),
        ("mx 4.2.2.1 and 192.0.2.5 and Exim 4.96.2 answered nothing", ""),
        ("Postfix 2.11.0", ""),
        ("550 mailbox unavailable", ""),
        ("version 5.2.1, then 450 4.7.1 greylisted", "4.7.1"),
        ("", ""),
    ],
)
def test_smtp_status_in(text, status):
    assert smtp_status_in(text) == status


@pytest.mark.parametrize(
    ("smtp_status", "text", "category"),
    [
        ("5.1.1", "", "no_mailbox"),
        ("5.1.10", "", "no_mailbox"),
        ("5.2.2", "blocked by policy", "mailbox_full"),
        ("5.1.2", "", "dns"),
        ("4.4.4", "", "dns"),
        ("5.4.7", "delivery time expired", "unreachable"),
        ("4.4.1", "no answer from host", "unreachable"),
        ("5.7.1", "", "policy"),
        ("5.7.1", "Service unavailable; client host blocked using Spamhaus", "spam"),
        ("5.7.1", "connection refused: cannot find your hostname in DNS", "policy"),
        ("5.4.1", "Recipient address rejected: Access denied", "no_mailbox"),
        ("5.5.0", "Requested action not taken: mailbox unavailable", "no_mailbox"),
        ("5.3.4", "", "policy"),
        ("5.0.0", "", "other"),
        ("", "550 User unknown", "no_mailbox"),
        ("", "550 No such user here", "no_mailbox"),
        ("", "This address no longer exists", "no_mailbox"),
        ("", "The mailbox for john@example.com is full", "mailbox_full"),
        ("", "550 user is over quota", "mailbox_full"),
        ("", "Connection timed out", "unreachable"),
        ("", "Domain example.com not found", "dns"),
        ("", "Message rejected due to local policy", "policy"),
        ("", "recipient rejected: greylisted", "policy"),
        ("", "Sorry", "other"),
        ("", " ", ""),
        ("", "", ""),
        ("2.0.0", "OK", ""),
    ],
)
def test_category_of(smtp_status, text, category):
    assert category_of(smtp_status, text) == category


@limits(max_examples=200, deadline=None)
@given(text=st.text(max_size=300), smtp_status=st.text(max_size=12))
def test_any_text_is_read(text, smtp_status):
    assert category_of(smtp_status_in(text) or smtp_status, text) in {*CATEGORIES, ""}
