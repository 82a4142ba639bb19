"""What a registrant sees, who cannot log in yet; and that it tells nothing about anybody else."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.db.models import F
from uuid_utils.compat import uuid7

from api.registrations import COARSE
from mailer import sender
from mailer.models import DeliveryStatus, Message
from mailer.status import EVENT_STATUS, Status
from tests.api.conftest import PASSWORD, happen, make_user, problem_of
from users import challenges, registration
from users.models import EmailChallenge, User

pytestmark = pytest.mark.django_db

REGISTER = "/api/v1/accounts/register"
RESEND = "/api/v1/accounts/verify-email/resend"
VERIFY = "/api/v1/accounts/verify-email"
ADA = {"email": "ada@example.com", "password": PASSWORD}
VERIFIED = datetime(2026, 1, 1, tzinfo=UTC)

# Whose the address may be.
OWNERS = {
    "verified": {"email_verified_at": VERIFIED},
    "unverified": {},
    "banned": {"email_verified_at": VERIFIED, "is_active": False},
    "banned and unverified": {"is_active": False},
}


@pytest.fixture
def registered(anyone):
    """The answer to a registration."""
    return anyone.post(REGISTER, ADA).json()


def look(client, registered, token=None):
    headers = {"Authorization": f"Bearer {registered['status_token'] if token is None else token}"}
    return client.get(f"/api/v1/accounts/registrations/{registered['registration_id']}", headers=headers)


def newest():
    return DeliveryStatus.objects.exclude(recipient="").latest("id")


# --- What is told -------------------------------------------------------------------------------------------


def test_a_mail_that_waits(anyone, registered):
    response = look(anyone, registered)

    assert response.status_code == 200
    assert response.json() == {
        "verification": "pending",
        "delivery": {
            "status": "queued",
            "updated_at": newest().updated_at.isoformat().replace("+00:00", "Z"),
        },
        "correct_address": False,
    }
    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (["sent"], "sent"),
        (["ambiguous"], "queued"),
        (["sent", "deferred"], "delayed"),
        (["sent", "delivered"], "delivered"),
        (["sent", "delivered", "opened", "clicked"], "delivered"),
        (["sent", "complained"], "delivered"),
        (["sent", "bounced"], "bounced"),
        (["rejected"], "bounced"),
        (["suppressed"], "bounced"),
        (["failed"], "failed"),
        (["cancelled"], "failed"),
    ],
    ids=str,
)
def test_what_became_of_it(anyone, registered, events, told):
    for event in events:
        happen(newest(), event)

    answer = look(anyone, registered).json()

    assert answer["delivery"]["status"] == told
    assert answer["correct_address"] == (told == "bounced")


def test_every_status_has_a_coarse_word():
    assert {*COARSE} == {*Status} >= {*EVENT_STATUS.values()} - {None}


def test_a_mail_that_leaves_is_sent(anyone, registered, simulator):
    sender.drain()

    assert look(anyone, registered).json()["delivery"]["status"] == "sent"


def test_the_newest_mail_counts(anyone, registered):
    happen(newest(), "bounced")
    EmailChallenge.objects.update(created_at=F("created_at") - timedelta(minutes=2))
    anyone.post(RESEND, {"email": ADA["email"]})

    assert look(anyone, registered).json()["delivery"]["status"] == "queued"


def test_a_registration_without_a_mail_of_its_own_waits_for_one(anyone, registered):
    for number in range(challenges.MAILS_A_DAY):
        last = anyone.post(REGISTER, {**ADA, "password": f"{PASSWORD} {number}"}).json()

    challenge = EmailChallenge.objects.get(pk=last["registration_id"])
    assert look(anyone, last).json()["delivery"] == {
        "status": "queued",
        "updated_at": challenge.created_at.isoformat().replace("+00:00", "Z"),
    }


def test_a_verified_address_needs_no_correction(anyone, registered):
    anyone.post(VERIFY, {"token": challenges.link_token(EmailChallenge.objects.get())})
    happen(DeliveryStatus.objects.get(kind="verification"), "bounced")

    answer = look(anyone, registered).json()

    assert (answer["verification"], answer["correct_address"]) == ("verified", False)


def test_a_corrected_address_is_a_registration_like_any(anyone, registered):
    happen(newest(), "bounced")

    corrected = anyone.post(REGISTER, {**ADA, "email": "lovelace@example.com"}).json()

    assert look(anyone, corrected).json()["delivery"]["status"] == "queued"
    assert newest().recipient == "lovelace@example.com"


def test_an_imported_user_may_ask_for_the_first_mail(anyone):
    make_user("ada@example.com")

    anyone.post(RESEND, {"email": "ada@example.com"})

    challenge = EmailChallenge.objects.get()
    assert anyone.post(VERIFY, {"registration_id": str(challenge.pk), "code": challenges.code(challenge)}).json() == {
        "status": "verified"
    }


# --- To whom ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "", "Token x", "Basic YTpi", "bearer"])
def test_without_a_token(anyone, registered, header):
    headers = {} if header is None else {"Authorization": header}
    response = anyone.get(f"/api/v1/accounts/registrations/{registered['registration_id']}", headers=headers)

    problem_of(response, 401, "authentication_failed" if header == "bearer" else "not_authenticated")
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("token", ["nonsense", "a b", "ü", "x" * 5000, "\xff"])
def test_with_another_token(anyone, registered, token):
    response = look(anyone, registered, token)

    problem_of(response, 401, "authentication_failed")
    assert response["WWW-Authenticate"] == "Bearer"


def test_the_token_of_one_registration_shows_no_other(anyone, registered):
    other = anyone.post(REGISTER, {**ADA, "email": "eve@example.com"}).json()

    problem_of(look(anyone, registered, other["status_token"]), 401, "authentication_failed")


def test_the_token_in_another_spelling_of_the_scheme(anyone, registered):
    path = f"/api/v1/accounts/registrations/{registered['registration_id']}"

    assert anyone.get(path, headers={"Authorization": f"bEARER {registered['status_token']}"}).status_code == 200


def test_a_registration_that_is_gone(anyone):
    gone = uuid7()

    problem_of(
        look(anyone, {"registration_id": gone, "status_token": registration.status_token(gone)}), 404, "not_found"
    )


def test_the_status_token_is_no_login(anyone, registered):
    for scheme in ("Token", "Bearer"):
        response = anyone.get(
            "/api/v1/accounts/me", headers={"Authorization": f"{scheme} {registered['status_token']}"}
        )
        assert response.status_code == 401


# --- By code ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["{0}{1}", "{0} {1}", "{0}-{1}", " {0} {1} "])
def test_a_code_may_be_written_in_groups(anyone, registered, written):
    code = challenges.code(EmailChallenge.objects.get())
    body = {"registration_id": registered["registration_id"], "code": written.format(code[:4], code[4:])}

    assert anyone.post(VERIFY, body).json() == {"status": "verified"}
    assert anyone.post(VERIFY, body).json() == {"status": "already_verified"}


def test_a_code_that_is_spent(anyone, registered):
    challenge = EmailChallenge.objects.get()
    body = {"registration_id": registered["registration_id"], "code": "x"}
    for _ in range(challenges.CODE_TRIES):
        problem_of(anyone.post(VERIFY, body), 404, "code_invalid")

    problem_of(anyone.post(VERIFY, {**body, "code": challenges.code(challenge)}), 410, "code_spent")
    assert anyone.post(VERIFY, {"token": challenges.link_token(challenge)}).json() == {"status": "verified"}


def test_a_code_that_has_expired(anyone, registered):
    EmailChallenge.objects.update(expires_at=F("created_at"))

    problem_of(anyone.post(VERIFY, {**registered, "code": "12345678"}), 410, "code_expired")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"code": "1234 5678"}, [("#/registration_id", "required")]),
        ({"code": "1234 5678", "registration_id": "ada"}, [("#/registration_id", "invalid")]),
        ({"code": "1" * 21, "registration_id": "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a"}, [("#/code", "max_length")]),
        ({"code": 12345678, "registration_id": "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a"}, [("#/code", "invalid")]),
        ({"registration_id": "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a"}, [("#/token", "required")]),
        ({}, [("#/token", "required")]),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_proof_is_named(anyone, fields, wrong):
    problem = problem_of(anyone.post(VERIFY, fields), 400, "invalid")

    assert [(error["pointer"], error["code"]) for error in problem["errors"]] == wrong


# --- Nothing given away ---------------------------------------------------------------------------------------


def shown(response):
    """Return all that an answer shows but what differs from one request to the next."""
    body = json.loads(response.content)
    for name in ("registration_id", "status_token", "request_id", "instance"):
        if name in body:
            body[name] = len(body[name])
    if "delivery" in body:
        body["delivery"].pop("updated_at")
    headers = {name: value for name, value in response.headers.items() if name != "Content-Length"}
    return response.status_code, body, headers


def course_of(client, password):
    """Register the address, do all that a registrant can, and return what they were shown."""
    answer = client.post(REGISTER, {**ADA, "password": password})
    registered = answer.json()
    course = [shown(answer), shown(look(client, registered))]
    sender.drain()
    course.append(shown(look(client, registered)))
    happen(newest(), "delivered")
    course.append(shown(look(client, registered)))
    course.append(shown(client.post(RESEND, {"email": ADA["email"]})))
    EmailChallenge.objects.update(created_at=F("created_at") - timedelta(minutes=2))
    again = client.post(REGISTER, {**ADA, "password": password})
    course += [shown(again), again.json()["registration_id"] == registered["registration_id"]]
    EmailChallenge.objects.update(created_at=F("created_at") - timedelta(minutes=2))
    course += [shown(client.post(RESEND, {"email": ADA["email"]})), shown(look(client, registered))]
    sender.drain()
    happen(newest(), "bounced")
    course.append(shown(look(client, registered)))
    for _ in range(challenges.CODE_TRIES + 1):
        course.append(shown(client.post(VERIFY, {**registered, "code": "wrong"})))
    EmailChallenge.objects.update(expires_at=F("created_at"))
    course += [shown(look(client, registered)), shown(client.post(VERIFY, {**registered, "code": "wrong"}))]
    course += [shown(client.post("/api/v1/accounts/password-reset", {"email": ADA["email"]})) for _ in range(2)]
    course.append(shown(client.post("/api/v1/auth/tokens", {**ADA, "password": "neither of the two"})))
    return course


@pytest.mark.parametrize("owner", OWNERS)
def test_the_whole_course_is_the_same_whoever_has_the_address(anyone, simulator, owner):
    free = course_of(anyone, "somebody else's battery")
    for model in (EmailChallenge, Message, User):
        model.objects.all().delete()
    make_user("ada@example.com", **OWNERS[owner])

    assert course_of(anyone, "somebody else's battery") == free


def test_the_course_is_one_of_all_that_may_happen(anyone, simulator):
    answers = [answer for answer in course_of(anyone, PASSWORD) if answer is not True]

    words = [body["delivery"]["status"] for _, body, _ in answers if "delivery" in body]
    problems = [body["code"] for status, body, _ in answers if status >= 400]
    assert words == ["queued", "sent", "delivered", "queued", "bounced", "bounced"]
    assert problems == ["code_invalid"] * 5 + ["code_spent", "code_expired", "invalid_credentials"]


def test_a_stranger_who_registers_an_address_sees_the_mail_to_its_owner_and_no_other(anyone, simulator):
    owner = anyone.post(REGISTER, ADA).json()
    happen(newest(), "bounced")
    stranger = anyone.post(REGISTER, {**ADA, "password": "somebody else's battery"}).json()

    assert look(anyone, owner).json()["delivery"]["status"] == "bounced"
    assert look(anyone, stranger).json()["delivery"]["status"] == "queued"


def test_the_mail_to_the_owner_of_a_taken_address_holds_no_link(anyone, simulator):
    make_user("ada@example.com", email_verified_at=VERIFIED)

    anyone.post(REGISTER, {**ADA, "password": "somebody else's battery"})
    sender.drain()

    (mail,) = simulator.inbox("ada@example.com")
    assert mail["links"] == []
    assert "already have an account" in mail["subject"]
