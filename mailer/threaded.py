"""stand-in until merged"""

from anymail.message import AnymailMessage

from mailer.verdicts import Answer


def send(backend: str, email: AnymailMessage) -> Answer:
    raise NotImplementedError
