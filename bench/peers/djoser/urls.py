from django.http import HttpResponse
from django.urls import include, path

urlpatterns = [
    path("healthz", lambda _request: HttpResponse("ok")),
    path("auth/", include("djoser.urls")),
    path("auth/", include("djoser.urls.authtoken")),
]
