"""Amazon asks whether its notifications are wanted: docs.aws.amazon.com/sns/latest/api/API_ConfirmSubscription.html."""

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.brokers import Moto
from tests.conftest import free_port
from tests.mailer import tiny
from tests.webhooks.providers.amazon import CONFIRMED, TOPIC, confirmation, incoming, signed
from tests.webhooks.providers.sns.conftest import TOPICS, accepts
from webhooks.exceptions import Unavailable
from webhooks.providers import sns


def refusal(code):
    return (
        f'<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type><Code>{code}</Code>'
        "<Message>no</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    ).encode()


class TestConfirm:
    def test_subscription_is_confirmed_through_the_api_alone(self, boto3_at):
        with tiny.serving(lambda: (200, {}, CONFIRMED)) as api, tiny.serving(lambda: (200, {}, b"")) as trap:
            boto3_at(api.url)

            assert accepts(incoming(signed(confirmation(SubscribeURL=f"{trap.url}/?Action=ConfirmSubscription"))))

        [(_, body)] = api.requests
        assert b"Action=ConfirmSubscription" in body
        assert f"TopicArn={TOPIC.replace(':', '%3A')}".encode() in body
        assert b"Token=2336412f37f" in body
        assert b"AuthenticateOnUnsubscribe=true" in body
        assert trap.requests == []

    def test_subscription_is_confirmed_at_moto(self, boto3_at, tmp_path_factory):
        server = Moto(tmp_path_factory.mktemp("moto") / "server", volatile=True)
        server.start()
        try:
            boto3_at(server.url)
            unknown = accepts(incoming(signed(confirmation())))
            boto3.session.Session().client("sns").create_topic(Name="events")

            assert not unknown
            assert accepts(incoming(signed(confirmation())))
        finally:
            server.stop()

    @pytest.mark.parametrize(
        "message",
        [
            signed(confirmation(), key=rsa.generate_private_key(65537, 2048)),
            signed(confirmation(TopicArn=TOPIC + "s")),
            signed(confirmation(age=90_000)),
            {**signed(confirmation()), "Token": "another"},
        ],
        ids=["forged", "topic", "age", "token"],
    )
    def test_nothing_is_confirmed_that_was_not_verified(self, boto3_at, message):
        with tiny.serving(lambda: (200, {}, CONFIRMED)) as api:
            boto3_at(api.url)

            assert not accepts(incoming(message))

        assert api.requests == []

    @pytest.mark.parametrize("code", ["InvalidParameter", "NotFound"])
    def test_token_that_is_no_good_is_refused(self, boto3_at, code):
        with tiny.serving(lambda: (400, {}, refusal(code))) as api:
            boto3_at(api.url)

            assert not accepts(incoming(signed(confirmation())))

    @pytest.mark.parametrize(
        "answer", [(403, {}, refusal("AuthorizationError")), (500, {}, refusal("InternalError")), (503, {}, b"busy")]
    )
    def test_other_answer_is_our_fault(self, boto3_at, answer):
        with tiny.serving(lambda: answer) as api:
            boto3_at(api.url)

            with pytest.raises(Unavailable):
                sns.verify(incoming(signed(confirmation())), TOPICS)

    def test_nobody_there_is_our_fault(self, boto3_at):
        boto3_at(f"http://127.0.0.1:{free_port()}")

        with pytest.raises(Unavailable):
            sns.verify(incoming(signed(confirmation())), TOPICS)

    def test_no_credentials_is_our_fault(self, boto3_at, monkeypatch):
        boto3_at(f"http://127.0.0.1:{free_port()}")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

        with pytest.raises(Unavailable):
            sns.verify(incoming(signed(confirmation())), TOPICS)
