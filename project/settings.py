"""Settings, all of them from the environment.

Every value may also come from a file: `SECRET_KEY_FILE=/run/secrets/key` is read for `SECRET_KEY`.
A missing or contradictory one raises `ImproperlyConfigured` with one line that says what to do.
"""

import contextlib
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import django_stubs_ext
from celery.schedules import crontab
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _
from redis.connection import parse_url

from project import accounts, brokers, mail
from project.environment import Environment, is_origin
from project.logging import configure
from webhooks.providers import KEY_DAYS, NONCE_DAYS

django_stubs_ext.monkeypatch()  # lets Django's generic classes be subscripted at run time

BASE_DIR = Path(__file__).resolve().parent.parent


env = Environment()

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])

# Where people reach this service; the links in mails start with it.
PUBLIC_URL = env.str("PUBLIC_URL").rstrip("/")
if not is_origin(PUBLIC_URL):
    raise ImproperlyConfigured("PUBLIC_URL must look like https://accounts.example.com")
_public = urlsplit(PUBLIC_URL)
# Health checks come from inside, by the address of the machine itself. Links never depend on the Host header.
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[_public.hostname, "127.0.0.1", "localhost"])

INSTALLED_APPS = [
    "api",
    "webhooks",
    "mailer",
    "users",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "anymail",
    "django_structlog",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "project.clients.ClientAddressMiddleware",
    "project.clients.OriginMiddleware",
    "project.logging.RequestLogMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
# Requests that a web process answers at once.
WEB_THREADS = int(env.at_least(1, "WEB_THREADS", default=8))
# Seconds that the body of a request may take to arrive; one that is slower is answered with 408.
WEB_BODY_SECONDS = env.at_least(0.1, "WEB_BODY_SECONDS", default=20)
# Bytes of large bodies that a web process holds while they arrive, all together.
WEB_BODIES_BYTES = 128 * 1024 * 1024
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# --- Data ---------------------------------------------------------------------------------------------

_database: dict[str, Any] = {}
_dsn = env.str("DATABASE_URL")
# Of a scheme it does not know django-environ warns with all that is in the URL, the password too.
if env.DB_SCHEMES.get(_dsn.partition(":")[0]) == "django.db.backends.postgresql":
    with contextlib.suppress(ValueError):  # a port that is no number
        _database = dict(env.db_url_config(_dsn))
if not _database:
    raise ImproperlyConfigured("DATABASE_URL must name a PostgreSQL database: postgresql://user:password@host/name")
_database["HOST"] = unquote(_database["HOST"])  # a socket's directory comes percent-encoded
_options: dict[str, Any] = _database.setdefault("OPTIONS", {})
_options["connect_timeout"] = 3
# Behind a pooler that gives each transaction another session, none would find what another one has prepared.
_options["prepare_threshold"] = 5 if env.bool("DATABASE_PREPARED", default=True) else None
_pool_size = env.int("DATABASE_POOL_SIZE", default=0)
if _pool_size:
    # For web processes: a thread a request. Workers hold one connection each and need no pool.
    # The wait between two attempts to connect doubles until `reconnect_timeout`, then begins anew.
    _options["pool"] = {"min_size": 1, "max_size": _pool_size, "timeout": 5, "reconnect_timeout": 3}
else:
    _database["CONN_MAX_AGE"] = 300
_database["CONN_HEALTH_CHECKS"] = True  # after a restart of the server a connection is found dead before it is used
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL")
try:
    parse_url(REDIS_URL)  # type: ignore[no-untyped-call]  # redis has types elsewhere
except ValueError:
    raise ImproperlyConfigured("REDIS_URL must look like redis://host:6379/1, rediss:// or unix://") from None
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
    }
}

# --- People -------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "users.User"
# OWASP's Argon2id parameters (Password Storage Cheat Sheet: 7 MiB, t=5, p=1). It reads any Argon2, the other PBKDF2.
PASSWORD_HASHERS = [
    "users.hashers.Argon2idHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
SITE_NAME = env.str("SITE_NAME", default=_public.hostname)
AUTH_PASSWORD_VALIDATORS = accounts.read_password_validators(env, SITE_NAME, PUBLIC_URL)
BLOCKED_DOMAINS = accounts.read_blocked_domains(env)
EMAIL_CHALLENGE_LIFETIME = timedelta(hours=env.float("EMAIL_CHALLENGE_HOURS", default=8))
LOGIN_URL = "/admin/login/"
# What may be done how often, by name: how many in how many seconds.
THROTTLES = accounts.read_throttles(env)
# Tokens that a user has at most, by logging in; the oldest go.
USER_TOKENS = int(env.at_least(1, "USER_TOKENS", default=20))
# Days that the audit is kept; the database lets nobody delete what is younger than the least.
AUDIT_DAYS = env.at_least(30, "AUDIT_DAYS", default=400)

# --- Mail ---------------------------------------------------------------------------------------------

DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL")
SERVER_EMAIL = DEFAULT_FROM_EMAIL  # a provider refuses root@localhost
# What any code in the process sends is queued first; who sends it then is named by MAIL_PROVIDERS.
EMAIL_BACKEND = "mailer.backends.OutboxBackend"
# Backends of Django's that are providers, by the names they have here. What a file-based one needs.
MAIL_BACKENDS = mail.read_backends(env)
EMAIL_FILE_PATH = env.str("EMAIL_FILE_PATH", default="") or None
# In order of preference; each name is a module of `mailer.providers`, or one of MAIL_BACKENDS.
MAIL_PROVIDERS = mail.read_providers(env, MAIL_BACKENDS)
# Which providers a kind goes through, where not through all of them.
MAIL_ROUTES = mail.read_routes(env, MAIL_PROVIDERS)
# Requests a worker process has under way at once: in all, and through one provider.
MAIL_CONCURRENCY = int(env.at_least(1, "MAIL_CONCURRENCY", default=32))
MAIL_CONCURRENCY_BY_PROVIDER = {
    name: int(number)
    for name, number in mail.read_by_provider(env, "MAIL_CONCURRENCY_", MAIL_BACKENDS, minimum=1).items()
}
# Messages a second that all workers together send through one provider.
MAIL_RATES = mail.read_by_provider(env, "MAIL_RATE_", MAIL_BACKENDS, minimum=0.001)
# Messages that one request carries at most, where the provider has a batch API; 1 for none.
MAIL_BATCH_SIZE = int(env.at_least(1, "MAIL_BATCH_SIZE", default=200))
# How long a worker holds a message, in seconds; `mailer.checks` has what is the least.
MAIL_LEASE_SECONDS = env.at_least(1, "MAIL_LEASE_SECONDS", default=60)
# How long a message that may have been accepted waits for evidence, in seconds.
MAIL_GRACE_SECONDS = env.at_least(0, "MAIL_GRACE_SECONDS", default=60)
# After how many seconds a search that finds nothing proves it, where not after the time its provider is known for.
MAIL_SEARCH_SECONDS = env.at_least(0, "MAIL_SEARCH_SECONDS", default=0) or None
# Mails to one address that bounce softly, with none delivered between, before it is mailed no more.
MAIL_SOFT_BOUNCES = int(env.at_least(1, "MAIL_SOFT_BOUNCES", default=5))
# Days after the end of a message: what it said goes; then all about it, its deliveries and their events.
MAIL_BODY_DAYS = env.at_least(0, "MAIL_BODY_DAYS", default=30)
MAIL_HISTORY_DAYS = env.at_least(1, "MAIL_HISTORY_DAYS", default=400)
if MAIL_HISTORY_DAYS < MAIL_BODY_DAYS:
    raise ImproperlyConfigured("MAIL_HISTORY_DAYS must be at least MAIL_BODY_DAYS: a body goes with its message")

ANYMAIL = mail.read_anymail(env, MAIL_PROVIDERS)
# Of the provider `smtp`. The server's certificate is always verified.
EMAIL_HOST = env.str("EMAIL_HOST", default="")
EMAIL_USE_SSL = env.bool("EMAIL_USE_SSL", default=False)
EMAIL_USE_TLS = env.bool("EMAIL_USE_TLS", default=not EMAIL_USE_SSL)
EMAIL_PORT = int(env.at_least(1, "EMAIL_PORT", default=465 if EMAIL_USE_SSL else 587))
EMAIL_HOST_USER = env.str("EMAIL_HOST_USER", default="")
EMAIL_HOST_PASSWORD = env.str("EMAIL_HOST_PASSWORD", default="")
EMAIL_TIMEOUT = 10
if EMAIL_USE_SSL and EMAIL_USE_TLS:
    raise ImproperlyConfigured("EMAIL_USE_TLS and EMAIL_USE_SSL cannot both be true")
if "smtp" in MAIL_PROVIDERS and not EMAIL_HOST:
    raise ImproperlyConfigured("Set EMAIL_HOST: MAIL_PROVIDERS names smtp")

# What each provider signs its webhooks with; two, comma-separated, while one replaces the other.
WEBHOOK_SECRETS = mail.read_webhook_secrets(env, MAIL_PROVIDERS)
# In development: the simulator's, in the place of Amazon's. A deployment refuses it.
WEBHOOK_SIMULATED_CERTIFICATE = mail.read_simulated_certificate(env, _public.hostname, debug=DEBUG)
# Where a provider's webhooks may come from; anywhere, where none is named.
WEBHOOK_NETWORKS = mail.read_webhook_networks(env)
WEBHOOK_MAX_BYTES = 10 * 1024 * 1024
# Events that one request may hold.
WEBHOOK_MAX_EVENTS = int(env.at_least(1, "WEBHOOK_MAX_EVENTS", default=5000))
# Events of one request that are recorded before it is answered; one of more is stored, and a worker records them.
WEBHOOK_AT_ONCE = int(env.at_least(0, "WEBHOOK_AT_ONCE", default=20))
# Days that the raw requests are kept; then the events they reported, and the names that requests came under.
WEBHOOK_RECEIPT_DAYS = env.at_least(0, "WEBHOOK_RECEIPT_DAYS", default=30)
# An event is what its repeats are known by, and a receipt may be replayed for as long as it is there. So nothing that
# was reported may be forgotten for so many days, neither alone nor with its message.
WEBHOOK_KEY_DAYS = WEBHOOK_RECEIPT_DAYS + KEY_DAYS
WEBHOOK_EVENT_DAYS = env.at_least(KEY_DAYS, "WEBHOOK_EVENT_DAYS", default=400)
for _name, _days in (("WEBHOOK_EVENT_DAYS", WEBHOOK_EVENT_DAYS), ("MAIL_HISTORY_DAYS", MAIL_HISTORY_DAYS)):
    if _days < WEBHOOK_KEY_DAYS:
        raise ImproperlyConfigured(
            f"{_name} must be at least {KEY_DAYS:g} more than WEBHOOK_RECEIPT_DAYS: by its events a webhook that comes"
            " again is known"
        )
WEBHOOK_NONCE_DAYS = env.at_least(NONCE_DAYS, "WEBHOOK_NONCE_DAYS", default=2)
# Hours after a mail was sent until it is a warning that its provider has reported nothing since.
WEBHOOK_SILENCE_HOURS = env.at_least(0.1, "WEBHOOK_SILENCE_HOURS", default=6)
# Whether providers are asked about mails of which no webhook told; how many requests a second, and how many at once,
# all processes make for that together, where it is to be another figure than a provider has in `webhooks.polls`.
RECONCILE = env.bool("RECONCILE", default=True)
RECONCILE_RATES = mail.read_by_provider(env, "RECONCILE_RATE_", MAIL_BACKENDS, minimum=0.001)
RECONCILE_BURSTS = mail.read_by_provider(env, "RECONCILE_BURST_", MAIL_BACKENDS, minimum=1)
DATA_UPLOAD_MAX_MEMORY_SIZE = WEBHOOK_MAX_BYTES
# Nobody has a file to send here: without this, one of any size would be written to the disk.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]

# --- Hints --------------------------------------------------------------------------------------------

CELERY_BROKER_URL = env.str("CELERY_BROKER_URL")
_broker = brokers.of(CELERY_BROKER_URL)
# What only the operator knows, such as `predefined_queues` or `master_name`: kombu's transport options, as JSON.
CELERY_BROKER_TRANSPORT_OPTIONS = {**_broker.options, **env.json("CELERY_BROKER_TRANSPORT_OPTIONS", default={})}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # a worker waits for its broker for ever
# Hints have a queue of their own: when enough of them wait, no more are added, whatever else a fork may queue.
CELERY_TASK_DEFAULT_QUEUE = env.str("CELERY_QUEUE", default="celery")
HINTS_QUEUE = f"{CELERY_TASK_DEFAULT_QUEUE}-hints"
# So have those of webhooks to be read: a burst of them leaves no mail waiting.
READING_QUEUE = f"{CELERY_TASK_DEFAULT_QUEUE}-webhooks"
CELERY_TASK_QUEUES = {
    name: {"queue_arguments": dict(_broker.queue_arguments)}
    for name in (CELERY_TASK_DEFAULT_QUEUE, HINTS_QUEUE, READING_QUEUE)
}
CELERY_TASK_ROUTES = {
    "mailer.tasks.deliver": {"queue": HINTS_QUEUE},
    "mailer.tasks.sweep": {"queue": HINTS_QUEUE},
    "webhooks.tasks.read": {"queue": READING_QUEUE},
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_STORE_EAGER_RESULT = False
CELERY_TASK_PUBLISH_RETRY = False
CELERY_WORKER_CONSUMER = "project.celery:Consumer"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 15
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_TASK_TIME_LIMIT = 600
SWEEP_SECONDS = env.at_least(0.1, "SWEEP_SECONDS", default=5)
CELERY_BEAT_SCHEDULE = {
    "sweep": {
        "task": "mailer.tasks.sweep",
        "schedule": SWEEP_SECONDS,
        "options": {"expires": SWEEP_SECONDS},
    },
    # At a time of day: an interval would begin anew with every start of beat.
    "cleanup": {
        "task": "mailer.tasks.cleanup",
        "schedule": crontab(hour=3, minute=17),
        "options": {"expires": 3600},
    },
    "cleanup audit": {
        "task": "users.tasks.cleanup",
        "schedule": crontab(hour=3, minute=57),
        "options": {"expires": 3600},
    },
    "cleanup webhooks": {
        "task": "webhooks.tasks.cleanup",
        "schedule": crontab(hour=3, minute=37),
        "options": {"expires": 3600},
    },
}

# --- The REST face ------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["knox.auth.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "api.pagination.NewestFirst",
    "DEFAULT_SCHEMA_CLASS": "api.schema.Schema",
    "URL_FORMAT_OVERRIDE": None,  # `format` is a query parameter like any other that does not exist
    "EXCEPTION_HANDLER": "api.problems.handle",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    "NUM_PROXIES": 0,  # REMOTE_ADDR is the client's already (`project.clients`)
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
REST_KNOX = {
    "TOKEN_TTL": timedelta(days=env.at_least(0.01, "TOKEN_DAYS", default=30)),
    "AUTO_REFRESH": False,
    "USER_SERIALIZER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": SITE_NAME,
    "DESCRIPTION": "Register, verify an address, and ask what became of every mail.",
    "VERSION": "1.0.0",
    "TAGS": [
        {"name": "accounts", "description": "Register, verify an address, and what people do with their account."},
        {"name": "tokens", "description": "Log in and out."},
        {"name": "deliveries", "description": "What became of each mail."},
        {"name": "webhooks", "description": "What providers have posted, for operators."},
        {"name": "audit", "description": "What happened to accounts, for operators."},
    ],
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVERS": [{"url": "/", "description": "Where this document comes from."}],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "api.document.complete",
    ],
    "ENUM_NAME_OVERRIDES": {"DeliveryStatusEnum": "mailer.status.CHOICES"},
}

# --- Security -----------------------------------------------------------------------------------------

_https = _public.scheme == "https"
SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=_https)
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # probes come over plain HTTP from inside
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=31_536_000 if _https else 0)
# Only true behind a proxy that sets, and never passes on, this header.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.bool("BEHIND_TLS_PROXY", default=False) else None
# Proxies in front that each append to X-Forwarded-For; none of what is in it is believed beyond these.
NUM_PROXIES = int(env.at_least(0, "NUM_PROXIES", default=0))
if SECURE_PROXY_SSL_HEADER and THROTTLES and not NUM_PROXIES:
    raise ImproperlyConfigured(
        "Set NUM_PROXIES, with BEHIND_TLS_PROXY: else everybody has the proxy's address, and shares one limit"
    )
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = [
    # HSTS for subdomains and preloading bind a whole domain: not this service's to decide.
    "security.W005",
    "security.W021",
    *env.list("SILENCED_SYSTEM_CHECKS", default=[]),
]

# --- The rest -----------------------------------------------------------------------------------------

LOGGING = configure(
    level=env.one_of(logging.getLevelNamesMapping(), "LOG_LEVEL", default="INFO"),
    style=env.one_of(("json", "console"), "LOG_FORMAT", default="json"),
)
# An id from outside could be anything; ours is the one that the logs are searched for.
DJANGO_STRUCTLOG_TRUST_UPSTREAM_REQUEST_ID = False
DJANGO_STRUCTLOG_TRUST_UPSTREAM_CORRELATION_ID = False
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False
DJANGO_STRUCTLOG_CELERY_ENABLED = True

LANGUAGE_CODE = "en"
# `templates/mailer/` has a text for each kind of mail and each of these; the first is the default's.
LANGUAGES = [("en", _("English")), ("de", _("German"))]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    # The files that mails carry: every web and worker process must reach them, and nobody else. No URL leads there.
    "default": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {
            "location": env.str("MAIL_FILES_DIR", default=str(BASE_DIR / ".run" / "files")),
            "file_permissions_mode": 0o600,
            "directory_permissions_mode": 0o700,
        },
    },
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
if DEBUG:
    # Served straight from the apps, so that nothing has to be collected first.
    WHITENOISE_USE_FINDERS = True
    STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
