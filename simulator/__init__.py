"""A stand-in for the providers: the send APIs of four in their real wire formats, the webhooks of all.

For development, tests and the demo. It imports no app of the service: the two meet over HTTP only.
Start it with ``python -m simulator``; ``--help`` lists every setting.
"""
