"""Where everything is."""

from django.contrib import admin
from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularSwaggerView

from api.document import DocumentView
from api.problems import not_found
from project import health, metrics

urlpatterns = [
    path("", include("users.urls")),
    path("api/v1/", include("api.urls")),
    path("api/schema/", DocumentView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    # Said by us, so that it is said in the same way while debugging, when Django would show its own page.
    re_path(r"^api/", not_found),
    path("webhooks/", include("webhooks.urls")),
    path("admin/", admin.site.urls),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", metrics.metrics, name="metrics"),
]
handler400 = "api.problems.bad_request"
handler404 = "api.problems.not_found"
handler500 = "api.problems.server_error"
