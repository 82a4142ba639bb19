"""What the filters of all lists share: whatever does not exist is refused, by its name."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

import django_filters
from django.core.exceptions import ValidationError
from django.forms import Form
from drf_spectacular.utils import extend_schema_field
from rest_framework import exceptions

from api.fields import NO_NUL


class StrictFilterSet(django_filters.FilterSet):  # type: ignore[misc]  # has no types
    """Filters that do not let a misspelled one pass for none."""

    def get_form_class(self) -> type[Form]:
        """Refuse parameters that name no filter, and filters that name nothing."""
        known = {*self.filters, "cursor", "page_size"}
        unknown = sorted({*self.data} - known)
        if unknown:
            raise exceptions.ValidationError({name: ["There is no such filter."] for name in unknown}, code="unknown")
        blank = [name for name in self.filters if not all(value.strip() for value in self.data.getlist(name))]
        if blank:
            raise exceptions.ValidationError({name: ["This filter has no value."] for name in blank}, code="blank")
        return cast("type[Form]", super().get_form_class())


class TimeField(django_filters.fields.IsoDateTimeField):  # type: ignore[misc]  # has no types
    """A time, in UTC: PostgreSQL refuses offsets of 16 hours and more."""

    def to_python(self, value: Any) -> datetime | None:
        """Return the time. Raises `ValidationError`."""
        time: datetime | None = super().to_python(value)
        try:
            return time and time.astimezone(UTC)
        except OverflowError:  # before the year 1, or after 9999
            raise ValidationError(self.error_messages["invalid"], code="invalid") from None


class TimeFilter(django_filters.IsoDateTimeFilter):  # type: ignore[misc]  # has no types
    """Compares times."""

    field_class = TimeField


def one_of(names: Iterable[str], otherwise: str) -> Any:
    """Return a filter by one of some names; `otherwise` is said of any other, since Django's own error quotes it."""
    choices = [(name, name) for name in names]
    return django_filters.ChoiceFilter(choices=choices, error_messages={"invalid_choice": otherwise})


def text_filter(method: str, help_text: str) -> Any:
    """Return a filter by text, which a method of the filter set applies."""
    described = extend_schema_field({**NO_NUL, "minLength": 1, "description": help_text})
    return described(django_filters.CharFilter(method=method))
