"""What the environment may say, and what is said to whoever got it wrong: `manage.py` in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from mailer.providers import PROVIDERS
from tests.conftest import ROOT

# None of these may ever be shown.
SECRETS = {
    "SECRET_KEY": "$kept-to-ourselves-kept-to-ourselves-kept-to-ourselves-$1",
    "DATABASE_URL": "postgresql://someone:database-password@127.0.0.1:1/none",
    "CELERY_BROKER_URL": "redis://:broker-password@127.0.0.1:1/0",
    "REDIS_URL": "redis://:redis-password@127.0.0.1:1/0",
    "ANYMAIL_POSTMARK_SERVER_TOKEN": "postmark-server-token",
    "ANYMAIL_RESEND_API_KEY": "re_api_key",
    "WEBHOOK_SECRET_POSTMARK": "hook:hook-password",
    "WEBHOOK_SECRET_RESEND": "whsec_c29tZXRoaW5nIHNlY3JldA==",
}
# Of providers that `GOOD` does not name.
WEBHOOK_SECRETS = {
    "WEBHOOK_TOPICS_AMAZON_SES": "arn:aws:sns:us-east-1:123456789012:events",
    "WEBHOOK_SECRET_SENDGRID": (
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEi8ebnY8dbLhWgswNLDDrpPX9D1L+V+J+XCfSXAEQRHu9ze"
        "ubmVN9QkW6Kp3PiYhS4V2h0bd2LM03kvZ1koG9gQ=="
    ),
    "WEBHOOK_SECRET_SPARKPOST": "hook:hook-password",
    "WEBHOOK_SECRET_BREVO": "hook:hook-password",
    "WEBHOOK_SECRET_MAILTRAP": "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e",
    "WEBHOOK_SECRET_POSTAL": (
        "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDIeea1lI6LGzeoHpUD7ux4RPxUH1/4NA3ZUrMf/UrcL434BCa9MuSqvvNHHSeAmjy9"
        "OBHIK8+FbMAfooRsm4XWtSzlN4BKLtP2QDv0x0An+3N7wpww6pBFXh1o1D9gq4YG8Fp3Sbfq8WbctlNJiB6a5VnaHyv5b35mVQ1e8T3R"
        "3QIDAQAB"
    ),
    "WEBHOOK_SECRET_UNISENDER_GO": "6nsx9rrwhcerqdzbuzjt4osg9d4cqr8e",
    "WEBHOOK_SECRET_MAILERSEND": "signing-secret",
    "WEBHOOK_SECRET_MAILGUN": "signing-key",
    "WEBHOOK_SECRET_MAILJET": "hook:hook-password",
    "WEBHOOK_SECRET_MANDRILL": "webhook-key",
}
GOOD = {
    **SECRETS,
    "PATH": os.defpath,
    "PUBLIC_URL": "https://accounts.example.com",
    "DEFAULT_FROM_EMAIL": "Accounts <accounts@example.com>",
    "MAIL_PROVIDERS": "postmark,resend",
}
# What proves the webhooks of further providers.
QUOTED = [
    *SECRETS.values(),
    *("database-password", "broker-password", "redis-password", "hook-password", "c29tZXRoaW5nIHNlY3JldA", "let-slip"),
]

# What is wrong -> what the one line must name.
WRONG = [
    ({"MAIL_PROVIDERS": "amazon_ses"}, "WEBHOOK_TOPICS_AMAZON_SES"),
    ({"WEBHOOK_TOPICS_AMAZON_SES": "let-slip"}, "ARNs"),
    *(
        ({"WEBHOOK_SIMULATED_CERTIFICATE": "let-slip", **more}, "Remove WEBHOOK_SIMULATED_CERTIFICATE")
        for more in ({}, {"DEBUG": "true"}, {"PUBLIC_URL": "http://127.0.0.1:8000"})
    ),
    ({"WEBHOOK_SECRET_SENDGRID": "let-slip"}, "public key"),
    ({"WEBHOOK_SECRET_SENDGRID": f"{WEBHOOK_SECRETS['WEBHOOK_SECRET_SENDGRID']},let-slip"}, "public key"),
    ({"WEBHOOK_SECRET_SPARKPOST": "let-slip"}, "user:password"),
    ({"WEBHOOK_NETWORKS_POSTMARK": "let-slip"}, "WEBHOOK_NETWORKS_POSTMARK must be addresses and networks"),
    ({"WEBHOOK_NETWORKS_POSTMARK": "192.0.2.1/24"}, "WEBHOOK_NETWORKS_POSTMARK must be addresses and networks"),
    ({"WEBHOOK_NETWORKS_NOBODY": "192.0.2.0/24"}, "WEBHOOK_NETWORKS_NOBODY: 'nobody' is not one of"),
    ({"NUM_PROXIES": "-1"}, "NUM_PROXIES must be at least 0"),
    ({"BEHIND_TLS_PROXY": "true"}, "Set NUM_PROXIES, with BEHIND_TLS_PROXY"),
    ({"THROTTLE_LOGIN_IP": "let-slip"}, "THROTTLE_LOGIN_IP must look like 10/h"),
    ({"THROTTLE_LOGIN_IP": "0/h"}, "THROTTLE_LOGIN_IP must look like 10/h"),
    ({"THROTTLE_LOGIN_IP": "10/h,"}, "THROTTLE_LOGIN_IP must look like 10/h"),
    ({"AUDIT_DAYS": "29"}, "AUDIT_DAYS must be at least 30"),
    ({"PASSWORD_BREACH_CHECK": "1", "PASSWORD_BREACH_URL": "let-slip"}, "PASSWORD_BREACH_URL must look like"),
    ({"BLOCKED_DOMAINS": "@let-slip"}, "BLOCKED_DOMAINS must be domains"),
    ({"REDIS_URL": "let-slip"}, "REDIS_URL must look like"),
    ({"SECRET_KEY": None}, "SECRET_KEY"),
    ({"SECRET_KEY": ""}, "SECRET_KEY"),
    ({"PUBLIC_URL": None}, "PUBLIC_URL"),
    ({"PUBLIC_URL": ""}, "PUBLIC_URL"),
    ({"PUBLIC_URL": "accounts.example.com"}, "PUBLIC_URL"),
    ({"PUBLIC_URL": "ftp://accounts.example.com"}, "PUBLIC_URL"),
    ({"PUBLIC_URL": "https://accounts.example.com/path"}, "PUBLIC_URL"),
    ({"PUBLIC_URL": "https://accounts.example.com?query"}, "PUBLIC_URL"),
    ({"PUBLIC_URL": "https://someone:let-slip@accounts.example.com"}, "PUBLIC_URL"),
    ({"PUBLIC_URL": "https://accounts.example.com:port"}, "PUBLIC_URL"),
    ({"PUBLIC_URL": "https://[accounts"}, "PUBLIC_URL"),
    ({"DATABASE_URL": None}, "DATABASE_URL"),
    ({"DATABASE_URL": ""}, "PostgreSQL"),
    ({"DATABASE_URL": "let-slip"}, "PostgreSQL"),
    ({"DATABASE_URL": "sqlite:///db.sqlite3"}, "PostgreSQL"),
    ({"DATABASE_URL": "mysql://someone:let-slip@127.0.0.1/none"}, "PostgreSQL"),
    ({"DATABASE_URL": "oracel://someone:let-slip@127.0.0.1/none"}, "PostgreSQL"),
    ({"DATABASE_URL": "postgresql://someone:let-slip@127.0.0.1:port/none"}, "PostgreSQL"),
    ({"CELERY_BROKER_URL": None}, "CELERY_BROKER_URL"),
    ({"REDIS_URL": None}, "REDIS_URL"),
    ({"DEFAULT_FROM_EMAIL": None}, "DEFAULT_FROM_EMAIL"),
    ({"MAIL_PROVIDERS": None}, "MAIL_PROVIDERS"),
    ({"MAIL_PROVIDERS": ""}, "MAIL_PROVIDERS"),
    ({"MAIL_PROVIDERS": "postmark,nobody"}, "'nobody' is not one of amazon_ses, brevo"),
    ({"ANYMAIL_POSTMARK_SERVER_TOKEN": None}, "ANYMAIL_POSTMARK_SERVER_TOKEN"),
    ({"ANYMAIL_RESEND_API_KEY": ""}, "ANYMAIL_RESEND_API_KEY"),
    ({"WEBHOOK_SECRET_POSTMARK": None}, "WEBHOOK_SECRET_POSTMARK"),
    ({"WEBHOOK_SECRET_RESEND": None}, "WEBHOOK_SECRET_RESEND"),
    ({"WEBHOOK_SECRET_POSTMARK": "let-slip"}, "user:password"),
    ({"WEBHOOK_SECRET_POSTMARK": "hook:hook-password,let-slip"}, "user:password"),
    ({"WEBHOOK_SECRET_POSTMARK": ":let-slip"}, "user:password"),
    ({"WEBHOOK_SECRET_RESEND": "let-slip"}, "whsec_"),
    ({"WEBHOOK_SECRET_RESEND": "whsec_"}, "whsec_"),
    ({"WEBHOOK_SECRET_RESEND": "whsec_let-slip"}, "whsec_"),
    ({"WEBHOOK_SECRET_RESEND": "whsec_let-slip-\xe9"}, "whsec_"),
    ({"WEBHOOK_SECRET_BREVO": "let-slip"}, "user:password"),
    ({"WEBHOOK_SECRET_MAILTRAP": "let-slip"}, "signing secret"),
    ({"WEBHOOK_SECRET_POSTAL": "let-slip"}, "public key"),
    ({"WEBHOOK_SECRET_POSTAL": "bGV0IHNsaXA="}, "public key"),
    ({"WEBHOOK_SECRET_POSTAL": f"{WEBHOOK_SECRETS['WEBHOOK_SECRET_POSTAL']},let-slip"}, "public key"),
    ({"WEBHOOK_SECRET_UNISENDER_GO": "let-slip"}, "API key"),
    ({"WEBHOOK_SECRET_MAILJET": "let-slip"}, "user:password"),
    ({"MAIL_PROVIDERS": "mailgun", "ANYMAIL_MAILGUN_API_KEY": "key"}, "Set WEBHOOK_SECRET_MAILGUN"),
    ({"MAIL_PROVIDERS": "mandrill", "ANYMAIL_MANDRILL_API_KEY": "key"}, "Set WEBHOOK_SECRET_MANDRILL"),
    ({"MAIL_PROVIDERS": "mailersend", "ANYMAIL_MAILERSEND_API_TOKEN": "key"}, "Set WEBHOOK_SECRET_MAILERSEND"),
    ({"MAIL_PROVIDERS": "postmark,resend,postmark"}, "MAIL_PROVIDERS names postmark twice"),
    ({"MAIL_PROVIDERS": "mailjet", "ANYMAIL_MAILJET_API_KEY": "key"}, "Set ANYMAIL_MAILJET_SECRET_KEY"),
    ({"MAIL_PROVIDERS": "postal", "ANYMAIL_POSTAL_API_KEY": "key"}, "Set ANYMAIL_POSTAL_API_URL"),
    ({"MAIL_PROVIDERS": "smtp"}, "Set EMAIL_HOST: MAIL_PROVIDERS names smtp"),
    ({"EMAIL_USE_TLS": "1", "EMAIL_USE_SSL": "1"}, "EMAIL_USE_TLS and EMAIL_USE_SSL"),
    ({"EMAIL_PORT": "let-slip"}, "EMAIL_PORT"),
    ({"MAIL_ROUTES": "welcome"}, "MAIL_ROUTES must look like"),
    ({"MAIL_ROUTES": "welcome="}, "MAIL_ROUTES must look like"),
    ({"MAIL_ROUTES": "=resend"}, "MAIL_ROUTES must look like"),
    ({"MAIL_ROUTES": "welcome=resend,welcome=postmark"}, "MAIL_ROUTES must look like"),
    ({"MAIL_ROUTES": "welcome=resend+brevo"}, "MAIL_ROUTES sends welcome through 'brevo'"),
    ({"MAIL_ROUTES": "welcome=resend+"}, "MAIL_ROUTES sends welcome through ''"),
    ({"MAIL_CONCURRENCY": "let-slip"}, "MAIL_CONCURRENCY"),
    ({"MAIL_CONCURRENCY_RESEND": "0"}, "MAIL_CONCURRENCY_RESEND must be at least 1"),
    ({"MAIL_CONCURRENCY_NOBODY": "1"}, "MAIL_CONCURRENCY_NOBODY: 'nobody' is not one of amazon_ses"),
    ({"MAIL_RATE_RESEND": "0"}, "MAIL_RATE_RESEND must be at least"),
    ({"MAIL_RATE_RESEND": "let-slip"}, "MAIL_RATE_RESEND"),
    ({"MAIL_RATE_NOBODY_FILE": "/nowhere/let"}, "MAIL_RATE_NOBODY: 'nobody'"),
    ({"MAIL_BACKENDS": "console"}, "MAIL_BACKENDS must look like"),
    ({"MAIL_BACKENDS": "console="}, "MAIL_BACKENDS must look like"),
    ({"MAIL_BACKENDS": "=a.B"}, "MAIL_BACKENDS must look like"),
    ({"MAIL_BACKENDS": "console=Backend"}, "MAIL_BACKENDS must look like"),
    ({"MAIL_BACKENDS": "console=a.B=c"}, "MAIL_BACKENDS must look like"),
    ({"MAIL_BACKENDS": "Console=a.B"}, "MAIL_BACKENDS must look like"),
    ({"MAIL_BACKENDS": f"{'c' * 33}=a.B"}, "MAIL_BACKENDS must look like"),
    ({"MAIL_BACKENDS": "console=a.B,console=a.C"}, "MAIL_BACKENDS must look like"),
    ({"MAIL_BACKENDS": "postmark=a.B"}, "MAIL_BACKENDS: postmark is a provider already"),
    ({"MAIL_BACKENDS": "console=a.B", "MAIL_PROVIDERS": "archive"}, "'archive' is not one of amazon_ses, brevo"),
    ({"MAIL_BATCH_SIZE": "0"}, "MAIL_BATCH_SIZE must be at least 1"),
    ({"MAIL_GRACE_SECONDS": "-1"}, "MAIL_GRACE_SECONDS must be at least 0"),
    ({"MAIL_CONCURRENCY": "0"}, "MAIL_CONCURRENCY must be at least 1"),
    ({"MAIL_LEASE_SECONDS": "-1"}, "MAIL_LEASE_SECONDS must be at least 1"),
    # Twice the three and a half days for which MailerSend repeats.
    ({"WEBHOOK_EVENT_DAYS": "6.9"}, "WEBHOOK_EVENT_DAYS must be at least 7"),
    ({"WEBHOOK_EVENT_DAYS": "36.9"}, "WEBHOOK_EVENT_DAYS must be at least 7 more than WEBHOOK_RECEIPT_DAYS"),
    ({"MAIL_HISTORY_DAYS": "36.9"}, "MAIL_HISTORY_DAYS must be at least 7 more than WEBHOOK_RECEIPT_DAYS"),
    # Twice the nine hours for which Mailgun's signatures are fresh.
    ({"WEBHOOK_NONCE_DAYS": "0.74"}, "WEBHOOK_NONCE_DAYS must be at least 0.75"),
    ({"SWEEP_SECONDS": "0"}, "SWEEP_SECONDS must be at least"),
    ({"EMAIL_CHALLENGE_HOURS": "let-slip"}, "EMAIL_CHALLENGE_HOURS"),
    ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL must be one of"),
    ({"LOG_FORMAT": "xml"}, "LOG_FORMAT must be one of json, console"),
    ({"SECRET_KEY_FILE": "/nowhere/let"}, "SECRET_KEY_FILE"),
]


def manage(*arguments, **changes):
    return python("manage.py", *arguments, **changes)


def python(*arguments, **changes):
    environment = {name: value for name, value in (GOOD | changes).items() if value is not None}
    command = [sys.executable, "-W", "error::UserWarning", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def setting(*names, **changes):
    """Return a setting, or a list of several, as a process has them in which these variables are changed."""
    values = ", ".join(f"settings.{name}" for name in names)
    program = f"import json; from django.conf import settings; print(json.dumps([{values}]))"
    environment = {name: value for name, value in (GOOD | changes).items() if value is not None}
    environment["DJANGO_SETTINGS_MODULE"] = "project.settings"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = json.loads(done.stdout)
    return found[0] if len(names) == 1 else found


def test_good_environment_passes():
    done = manage("check")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("changes", "named"), WRONG, ids=[str(row[0]) for row in WRONG])
def test_wrong_environment_stops_with_one_line(changes, named):
    done = manage("check", **changes)

    assert done.returncode != 0
    [line] = done.stderr.splitlines()
    assert line.startswith("Configuration: ")
    assert named in line
    assert not [secret for secret in QUOTED if secret in line + done.stdout]


# What Django's checks must find -> what they must say.
CHECKED = [
    ({"MAIL_LEASE_SECONDS": "24"}, "MAIL_LEASE_SECONDS must be at least 25"),
    ({"MAIL_BACKENDS": "archive=nowhere.Backend"}, "MAIL_BACKENDS: archive=nowhere.Backend cannot be made"),
    ({"MAIL_ROUTES": "farewell=resend"}, "MAIL_ROUTES: 'farewell' is not one of"),
]
RELAY = ("manage.py", "relay")
# Celery warns root at length.
WORKER = ("-W", "default", "-m", "celery", "-A", "project", "worker", "--pool", "solo")


@pytest.mark.parametrize(("changes", "said"), CHECKED, ids=[str(row[0]) for row in CHECKED])
@pytest.mark.parametrize("program", [RELAY, WORKER], ids=["relay", "worker"])
def test_what_the_checks_find_stops_the_start(program, changes, said):
    done = python(*program, **changes)

    assert done.returncode != 0
    assert said in done.stderr
    assert not [secret for secret in QUOTED if secret in done.stderr + done.stdout]


def test_check_can_be_silenced():
    done = manage("check", MAIL_LEASE_SECONDS="2", SILENCED_SYSTEM_CHECKS="mailer.E002")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SECRETS)
def test_value_may_come_from_a_file(tmp_path, name):
    file = tmp_path / "secret"
    file.write_text(f"{GOOD[name]}\n")

    done = manage("check", **{name: None, f"{name}_FILE": str(file)})

    assert done.returncode == 0, done.stderr


def test_line_end_of_a_file_is_no_part_of_the_value(tmp_path):
    file = tmp_path / "secret"
    file.write_text("hook:new,hook:old\r\n")

    secrets = setting("WEBHOOK_SECRETS", WEBHOOK_SECRET_POSTMARK=None, WEBHOOK_SECRET_POSTMARK_FILE=str(file))

    assert secrets["postmark"] == ["hook:new", "hook:old"]


def test_key_of_anymail_may_come_from_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text("re_from_a_file\n")

    anymail = setting("ANYMAIL", ANYMAIL_RESEND_API_KEY=None, ANYMAIL_RESEND_API_KEY_FILE=str(file))

    assert anymail["RESEND_API_KEY"] == "re_from_a_file"


@pytest.mark.parametrize("key", ["$SECRET", r"a\$b$$c", "$"])
def test_dollar_is_a_character_like_any_other(key):
    assert setting("SECRET_KEY", SECRET_KEY=key) == key


def test_address_of_the_public_may_name_a_port_and_end_with_a_slash():
    assert setting("PUBLIC_URL", PUBLIC_URL="http://[::1]:8000/") == "http://[::1]:8000"


def test_socket_directory_of_the_database_may_be_encoded():
    databases = setting("DATABASES", DATABASE_URL="postgresql://someone@%2Frun%2Fpostgresql/accounts")

    assert databases["default"]["HOST"] == "/run/postgresql"


def test_provider_that_is_not_named_needs_nothing():
    missing = {name: None for name in SECRETS if "POSTMARK" in name}

    assert setting("MAIL_PROVIDERS", MAIL_PROVIDERS="resend", **missing) == ["resend"]


def test_lease_lasts_a_minute_unless_said_otherwise():
    assert setting("MAIL_LEASE_SECONDS") == 60
    assert setting("MAIL_LEASE_SECONDS", MAIL_LEASE_SECONDS="2") == 2


def test_every_provider_can_be_named_with_what_it_needs():
    needs = {f"ANYMAIL_{name}": "value" for provider in PROVIDERS.values() for name in provider.needs}

    named, anymail = setting(
        "MAIL_PROVIDERS",
        "ANYMAIL",
        MAIL_PROVIDERS=",".join(PROVIDERS),
        EMAIL_HOST="mail",
        **needs,
        **WEBHOOK_SECRETS,
    )

    assert named == [*PROVIDERS]
    assert {f"ANYMAIL_{name}" for name in anymail} - {*needs} == {"ANYMAIL_AMAZON_SES_CLIENT_PARAMS"}


def test_what_any_provider_takes_reaches_anymail_and_nothing_else():
    taken = {"ANYMAIL_RESEND_API_URL": "https://api.example.com/", "ANYMAIL_POSTMARK_MESSAGE_STREAM": "accounts"}

    anymail = setting("ANYMAIL", MAIL_PROVIDERS="resend", **taken)

    assert anymail == {
        "RESEND_API_KEY": "re_api_key",
        "RESEND_API_URL": "https://api.example.com/",
        "POSTMARK_MESSAGE_STREAM": "accounts",
        "POSTMARK_SERVER_TOKEN": "postmark-server-token",
    }


def test_provider_whose_webhooks_are_not_taken_needs_no_secret():
    keys = {"ANYMAIL_SCALEWAY_SECRET_KEY": "key", "ANYMAIL_SCALEWAY_PROJECT_ID": "project"}

    secrets = setting("WEBHOOK_SECRETS", MAIL_PROVIDERS="scaleway", **keys)

    assert "scaleway" not in secrets


def test_backends_of_django_are_providers_like_others():
    console = "django.core.mail.backends.console.EmailBackend"
    named = {"MAIL_BACKENDS": f"console={console},spare=a.B", "MAIL_PROVIDERS": "postmark,console"}
    limits = {"MAIL_RATE_CONSOLE": "2", "MAIL_CONCURRENCY_CONSOLE": "3", "MAIL_ROUTES": "welcome=console"}

    found = setting(
        *("MAIL_BACKENDS", "MAIL_PROVIDERS", "MAIL_RATES", "MAIL_CONCURRENCY_BY_PROVIDER", "MAIL_ROUTES"),
        **named,
        **limits,
    )

    assert found == [
        {"console": console, "spare": "a.B"},
        ["postmark", "console"],
        {"console": 2},
        {"console": 3},
        {"welcome": ["console"]},
    ]


def test_backends_of_django_need_no_webhook_secret():
    changes = {"MAIL_BACKENDS": "console=a.B", "MAIL_PROVIDERS": "console"}
    missing = {name: None for name in SECRETS if "POSTMARK" in name or "RESEND" in name}

    assert setting("WEBHOOK_SECRETS", **changes, **missing) == {}


def test_routes_name_providers_in_order():
    assert setting("MAIL_ROUTES") == {}
    assert setting("MAIL_ROUTES", MAIL_ROUTES="welcome=postmark,digest=resend+postmark") == {
        "welcome": ["postmark"],
        "digest": ["resend", "postmark"],
    }


def test_limits_may_differ_by_provider():
    limits = setting(
        "MAIL_CONCURRENCY",
        "MAIL_CONCURRENCY_BY_PROVIDER",
        "MAIL_RATES",
        "RECONCILE_RATES",
        "RECONCILE_BURSTS",
        MAIL_CONCURRENCY_AMAZON_SES="3",
        MAIL_RATE_RESEND="1.5",
        RECONCILE_RATE_POSTMARK="0.5",
        RECONCILE_BURST_POSTMARK="10",
    )

    assert limits == [32, {"amazon_ses": 3}, {"resend": 1.5}, {"postmark": 0.5}, {"postmark": 10}]


def test_statements_are_prepared_unless_said_otherwise():
    assert setting("DATABASES")["default"]["OPTIONS"]["prepare_threshold"] == 5
    assert setting("DATABASES", DATABASE_PREPARED="0")["default"]["OPTIONS"]["prepare_threshold"] is None


def test_limits_have_defaults():
    limits = setting("MAIL_CONCURRENCY_BY_PROVIDER", "MAIL_RATES", "MAIL_BATCH_SIZE", "MAIL_GRACE_SECONDS")

    assert limits == [{}, {}, 200, 60]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, [587, True, False]), ({"EMAIL_USE_SSL": "1"}, [465, False, True]), ({"EMAIL_PORT": "25"}, [25, True, False])],
)
def test_smtp_is_encrypted_unless_said_otherwise(changes, expected):
    assert setting("EMAIL_PORT", "EMAIL_USE_TLS", "EMAIL_USE_SSL", **changes) == expected
