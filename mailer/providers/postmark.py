"""Postmark.

https://postmarkapp.com/developer/api/overview: no idempotency mechanism; 401 for a bad token, 422 for a
message that will never do, 429 over the rate limit, 500 and 503 for trouble of its own.
"""

from mailer.providers.base import Provider

PROVIDER = Provider(
    name="postmark",
    backend="anymail.backends.postmark.EmailBackend",
    needs=("POSTMARK_SERVER_TOKEN",),
    takes=("POSTMARK_API_URL", "POSTMARK_MESSAGE_STREAM"),
)
