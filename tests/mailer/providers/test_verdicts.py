"""What each provider's answers mean, in the words of its page."""

import pytest

from mailer.providers import PROVIDERS
from mailer.verdicts import Verdict


@pytest.mark.parametrize(
    ("name", "status", "body", "verdict"),
    [
        ("amazon_ses", 400, {"Error": {"Code": "TooManyRequestsException"}}, Verdict.THROTTLED),
        ("amazon_ses", 400, {"Error": {"Code": "LimitExceededException"}}, Verdict.THROTTLED),
        ("amazon_ses", 400, {"Error": {"Code": "SendingPausedException"}}, Verdict.CONFIGURATION),
        ("amazon_ses", 400, {"Error": {"Code": "MessageRejected"}}, Verdict.NOT_SENT),
        ("amazon_ses", 400, {"Error": {"Code": "BadRequestException"}}, Verdict.PERMANENT),
        ("amazon_ses", 403, {"Error": {"Code": "SignatureDoesNotMatch"}}, Verdict.CONFIGURATION),
        ("amazon_ses", 500, {"Error": {"Code": "InternalFailure"}}, Verdict.AMBIGUOUS),
        ("brevo", 201, {"messageId": "<201798300811.5787683@relay.domain.com>"}, Verdict.ACCEPTED),
        ("brevo", 400, {"code": "duplicate_parameter", "message": "..."}, Verdict.ACCEPTED),
        ("brevo", 400, {"code": "invalid_parameter", "message": "..."}, Verdict.PERMANENT),
        ("brevo", 402, {"code": "not_enough_credits", "message": "..."}, Verdict.CONFIGURATION),
        ("mailersend", 202, "", Verdict.ACCEPTED),
        ("mailersend", 421, {"message": "Service isn't available, try again later."}, Verdict.AMBIGUOUS),
        ("mailersend", 422, {"message": "The given data was invalid.", "errors": {}}, Verdict.PERMANENT),
        ("mailgun", 200, {"id": "<1@example.com>", "message": "Queued. Thank you."}, Verdict.ACCEPTED),
        ("mailgun", 200, "Mailgun Magnificent API", Verdict.CONFIGURATION),
        ("mailgun", 200, "Mailgun Magnificent API\n", Verdict.CONFIGURATION),
        ("mailgun", 402, {"message": "Request failed"}, Verdict.AMBIGUOUS),
        ("mailgun", 404, {"message": "Domain not found: example.com"}, Verdict.CONFIGURATION),
        ("mailjet", 401, {"StatusCode": 401}, Verdict.CONFIGURATION),
        ("mailtrap", 401, {"errors": ["Unauthorized"]}, Verdict.CONFIGURATION),
        ("mandrill", 200, [{"email": "a@example.com", "status": "sent", "_id": "1"}], Verdict.ACCEPTED),
        ("mandrill", 500, {"status": "error", "code": -1, "name": "Invalid_Key"}, Verdict.CONFIGURATION),
        ("mandrill", 500, {"status": "error", "code": -2, "name": "ValidationError"}, Verdict.PERMANENT),
        ("mandrill", 500, {"status": "error", "code": 10, "name": "PaymentRequired"}, Verdict.CONFIGURATION),
        ("mandrill", 500, {"status": "error", "code": -99, "name": "GeneralError"}, Verdict.AMBIGUOUS),
        ("mandrill", 502, "<html>", Verdict.AMBIGUOUS),
        ("postal", 200, {"status": "success", "data": {"message_id": "1", "messages": {}}}, Verdict.ACCEPTED),
        ("postal", 200, {"status": "error", "data": {"code": "InvalidServerAPIKey"}}, Verdict.CONFIGURATION),
        ("postal", 200, {"status": "error", "data": {"code": "NoContent"}}, Verdict.PERMANENT),
        ("postal", 200, {"status": "error", "data": {"code": "SomethingNew"}}, Verdict.AMBIGUOUS),
        ("postal", 200, {"status": "parameter-error", "data": {"message": "..."}}, Verdict.PERMANENT),
        ("postmark", 200, {"ErrorCode": 0, "Message": "OK", "MessageID": "1"}, Verdict.ACCEPTED),
        ("postmark", 401, {"ErrorCode": 10, "Message": "..."}, Verdict.CONFIGURATION),
        ("postmark", 422, {"ErrorCode": 300, "Message": "Invalid 'To' address"}, Verdict.PERMANENT),
        ("postmark", 422, {"ErrorCode": 400, "Message": "..."}, Verdict.CONFIGURATION),
        ("postmark", 422, {"ErrorCode": 405, "Message": "..."}, Verdict.CONFIGURATION),
        ("postmark", 422, {"ErrorCode": 406, "Message": "..."}, Verdict.PERMANENT),
        ("postmark", 422, {"ErrorCode": 412, "Message": "..."}, Verdict.CONFIGURATION),
        ("postmark", 422, {"ErrorCode": 413, "Message": "..."}, Verdict.CONFIGURATION),
        ("postmark", 503, {"ErrorCode": 100, "Message": "..."}, Verdict.NOT_SENT),
        ("postmark", 413, "", Verdict.PERMANENT),
        ("postmark", 500, "", Verdict.AMBIGUOUS),
        ("resend", 409, {"name": "concurrent_idempotent_requests"}, Verdict.AMBIGUOUS),
        ("resend", 409, {"name": "invalid_idempotent_request"}, Verdict.AMBIGUOUS),
        ("resend", 429, {"name": "daily_quota_exceeded"}, Verdict.THROTTLED),
        ("resend", 403, {"name": "validation_error"}, Verdict.CONFIGURATION),
        ("resend", 422, {"name": "validation_error"}, Verdict.PERMANENT),
        ("scaleway", 403, {"type": "quotas_exceeded"}, Verdict.THROTTLED),
        ("scaleway", 400, {"type": "invalid_arguments"}, Verdict.PERMANENT),
        ("sendgrid", 401, {"errors": [{"message": "Maximum credits exceeded"}]}, Verdict.CONFIGURATION),
        ("smtp", 250, None, Verdict.ACCEPTED),
        ("smtp", 421, None, Verdict.NOT_SENT),
        ("smtp", 451, None, Verdict.NOT_SENT),
        ("smtp", 535, None, Verdict.CONFIGURATION),
        ("smtp", 550, None, Verdict.PERMANENT),
        ("smtp", 554, None, Verdict.PERMANENT),
        ("sparkpost", 400, {"errors": [{"code": "7001", "message": "Invalid domain"}]}, Verdict.CONFIGURATION),
        ("sparkpost", 420, {"errors": [{"code": "2101", "message": "Exceed Sending Limit"}]}, Verdict.THROTTLED),
        ("sparkpost", 422, {"errors": [{"code": "1400", "message": "..."}]}, Verdict.PERMANENT),
        ("sparkpost", 422, {"errors": []}, Verdict.PERMANENT),
        (
            "sparkpost",
            200,
            {"errors": [{"code": "2000"}], "results": {"total_accepted_recipients": 1}},
            Verdict.ACCEPTED,
        ),
        ("unisender_go", 200, {"status": "success", "job_id": "1", "emails": []}, Verdict.ACCEPTED),
        ("unisender_go", 400, {"status": "error", "code": 1573}, Verdict.ACCEPTED),
        ("unisender_go", 400, {"status": "error", "code": 206}, Verdict.CONFIGURATION),
        ("unisender_go", 403, {"status": "error", "code": 901}, Verdict.THROTTLED),
        ("unisender_go", 403, {"status": "error", "code": 904}, Verdict.CONFIGURATION),
        ("unisender_go", 400, {"status": "error", "code": 204}, Verdict.PERMANENT),
    ],
)
def test_verdict(name, status, body, verdict):
    assert PROVIDERS[name].verdict(status, body) is verdict


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
@pytest.mark.parametrize("body", [None, "", "<html>", [], {}, {"errors": "x"}, {"data": None}], ids=repr)
def test_verdict_on_a_body_of_another_shape_is_that_of_the_status(provider, body):
    assert provider.verdict(200, body) is Verdict.ACCEPTED
    if provider.name != "smtp":
        assert provider.verdict(429, body) is Verdict.THROTTLED
        assert provider.verdict(500, body) is Verdict.AMBIGUOUS
