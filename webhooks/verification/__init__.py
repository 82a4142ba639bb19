"""Whether a request comes from the provider it claims: a file a provider, each over the raw bytes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from webhooks.verification import postmark, resend

# Provider -> verify(headers, body, secrets), which raises `Rejected`.
VERIFIERS: Final[dict[str, Callable[[Mapping[str, str], bytes, Sequence[str]], None]]] = {
    "postmark": postmark.verify,
    "resend": resend.verify,
}
