"""What the contract's runs let pass, and what they take for not having looked."""

from types import SimpleNamespace

import pytest
from schemathesis.openapi.checks import RejectedPositiveData, UndefinedStatusCode

from tests.contract.__main__ import Found, is_whole

OPERATIONS = ["GET /a", "POST /b"]


def found(**accepted):
    rates = {name: {"fuzzing": {"accepted": count}} for name, count in zip(OPERATIONS, accepted.values(), strict=True)}
    return Found("user", {"exit_code": 0, "valid_rates": rates, "phases": {"fuzzing": {"status": "success"}}}, "")


def test_a_run_that_did_not_end_is_no_good_one():
    assert not Found("user", {}, "").is_good


def test_runs_are_whole_where_each_operation_was_answered_well_by_one_of_them():
    assert is_whole([found(a=1, b=0), found(a=0, b=2)], OPERATIONS)
    assert not is_whole([found(a=1, b=0), found(a=2, b=0)], OPERATIONS)
    assert not is_whole([found(a=1, b=1)], [*OPERATIONS, "GET /c"])


def test_runs_are_not_whole_where_a_phase_was_left_out(capsys):
    run = found(a=1, b=1)
    run.report["phases"]["stateful"] = {"status": "skip"}

    assert not is_whole([run], OPERATIONS)
    assert "user: stateful" in capsys.readouterr().out


@pytest.fixture
def hooks(monkeypatch):
    monkeypatch.setenv("CONTRACT_CALLER", "anonymous")
    from tests.contract import hooks  # reads the variable

    return hooks


def refusal(status, *errors):
    places = [{("pointer" if at.startswith("#") else "parameter"): at, "code": code} for at, code in errors]
    return SimpleNamespace(status_code=status, json=lambda: {"errors": places})


@pytest.mark.parametrize(
    ("response", "counts"),
    [
        (refusal(400, ("#/password", "password_too_common")), False),
        (refusal(400, ("#/password", "wrong_password"), ("#/new_password", "password_too_common")), False),
        (refusal(400, ("cursor", "invalid")), False),
        (refusal(400, ("kind", "invalid")), True),
        (refusal(400, ("#/password", "wrong_password"), ("#/email", "invalid")), True),
        (refusal(400), True),
        (refusal(415, ("#/password", "wrong_password")), True),
    ],
)
def test_a_refusal_of_what_is_well_formed_counts_unless_no_schema_can_tell(hooks, response, counts):
    failure = RejectedPositiveData(
        operation="POST /b", message="", status_code=400, allowed_statuses=[], title="", case_id=""
    )

    assert hooks.filter_failure(None, failure, None, response) is counts


def test_any_other_failure_counts(hooks):
    failure = UndefinedStatusCode(
        operation="POST /b", status_code=400, defined_status_codes=[], allowed_status_codes=[], message=""
    )

    assert hooks.filter_failure(None, failure, None, refusal(400, ("#/password", "wrong_password"))) is True
