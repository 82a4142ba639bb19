"""A stand-in for Postmark, Resend, Mailjet and SendGrid that speaks their real wire formats.

For development, tests and the demo. It imports no app of the service: the two meet over HTTP only.
Start it with ``python -m simulator``; ``--help`` lists every setting.
"""
