"""What the filters of all lists share: whatever does not exist is refused, by its name."""

from collections.abc import Iterable
from typing import Any, cast

import django_filters
from django.forms import Form
from rest_framework import exceptions


class StrictFilterSet(django_filters.FilterSet):  # type: ignore[misc]  # has no types
    """Filters that do not let a misspelled one pass for none."""

    def get_form_class(self) -> type[Form]:
        """Refuse parameters that name no filter."""
        known = {*self.filters, "cursor", "page_size"}
        unknown = sorted({*self.data} - known)
        if unknown:
            raise exceptions.ValidationError({name: ["There is no such filter."] for name in unknown}, code="unknown")
        return cast("type[Form]", super().get_form_class())


def one_of(names: Iterable[str], otherwise: str) -> Any:
    """Return a filter by one of some names; `otherwise` is said of any other, since Django's own error quotes it."""
    choices = [(name, name) for name in names]
    return django_filters.ChoiceFilter(choices=choices, error_messages={"invalid_choice": otherwise})
