from django.http import HttpResponse
from django.urls import include, path

urlpatterns = [
    path("healthz", lambda _request: HttpResponse("ok")),
    path("auth/", include("dj_rest_auth.urls")),
    path("auth/registration/", include("dj_rest_auth.registration.urls")),
]
