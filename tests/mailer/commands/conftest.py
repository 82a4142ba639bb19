"""Running the commands of the people who run the service, and answering what they ask."""

import sys
from io import StringIO

import pytest
from django.core.management import call_command


def run(*command: object) -> str:
    """Run a command in this process, and return what it said."""
    output = StringIO()
    call_command(*map(str, command), stdout=output)
    return output.getvalue()


@pytest.fixture
def answers(monkeypatch):
    """Answer questions as somebody at a terminal; yields the questions."""

    def answers(*given: str) -> list[str]:
        asked: list[str] = []
        left = list(given)

        def answer(question: str) -> str:
            asked.append(question)
            return left.pop(0)

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        return asked

    return answers
