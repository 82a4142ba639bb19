"""The service, but that some new users are not written to: what registration costs without its mail."""

# Whoever has an address of this domain is not written to; and whoever has one of that gets no challenge, either.
NO_MAIL = "no-mail.example.com"
NO_CHALLENGE = "no-challenge.example.com"
