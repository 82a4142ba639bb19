# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
COPY requirements.txt .
RUN /venv/bin/pip install --require-hashes --requirement requirements.txt

FROM python:3.13-slim
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MAIL_FILES_DIR=/var/lib/accounts/files
# A new volume takes the directory's owner and mode from here.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin accounts \
    && install --directory --owner=accounts --mode=700 "$MAIL_FILES_DIR"
COPY --from=build /venv /venv
WORKDIR /app
COPY manage.py ./
COPY project project
COPY users users
COPY mailer mailer
COPY webhooks webhooks
COPY api api
COPY templates templates
# Collecting static files wants settings, but none of their values.
RUN SECRET_KEY=build PUBLIC_URL=https://build.invalid DEFAULT_FROM_EMAIL=build@build.invalid \
    MAIL_PROVIDERS=postmark ANYMAIL_POSTMARK_SERVER_TOKEN=build WEBHOOK_SECRET_POSTMARK=build:build \
    DATABASE_URL=postgresql://build.invalid/build REDIS_URL=redis://build.invalid CELERY_BROKER_URL=redis://build.invalid \
    python manage.py collectstatic --noinput
USER accounts
EXPOSE 8000
CMD ["granian", "--interface=asginl", "--http=1", "--no-ws", "--host=0.0.0.0", "--port=8000", "--workers=2", "--workers-kill-timeout=25", "project.asgi:application"]
