"""The Django project's settings, made from the process environment.

Gives    what Django reads; POSTFLEET, the process's `mailio.settings.Settings` (None: no stores)
Takes    control.environment
Raises   ImproperlyConfigured naming the variable
"""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from control.environment import read_environment
from mailio.settings import Settings

ENVIRONMENT = read_environment()
POSTFLEET: Settings | None = ENVIRONMENT.settings
CONTROL_DIR = Path(__file__).resolve().parent

# --- databases ------------------------------------------------------------------------------------


def database_of(url: str) -> dict[str, Any]:
    """Return Django's form of a postgresql:// URL; libpq options come after the `?`."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ImproperlyConfigured(f"DATABASE_URL: {parts.scheme}:// is not postgresql://")
    options = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    host = unquote(options.pop("host", "")) or parts.hostname or ""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or options.pop("port", "")),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {name: unquote(value) for name, value in options.items()},
    }


DATABASES = {"default": database_of(POSTFLEET.database_url)} if POSTFLEET is not None else {}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"

# --- apps -----------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "control.panel_config.PanelConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "control",
    "control.accounts",
    "control.audit",
    "control.nodes",
    "control.mta",
    "control.senders",
    "control.domains",
    "control.mailboxes",
    "control.stoplists",
    "control.queue",
    "control.jobs",
    "control.notify",
    "control.policy",
    "control.reports",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "control.health.ByAnyName",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "control.accounts.must_change.MustChangePassword",
    "control.page_guard.PageGuard",
]
ROOT_URLCONF = "control.urls"
WSGI_APPLICATION = "control.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [CONTROL_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
# How a change of rows becomes policy; named here so that no app has to import the compiler.
POLICY_PUBLISHER = "control.policy.publisher.publish"
POLICY_STATE = "control.policy.selectors.fleet_state"
HOLD_STATE = "control.queue.selectors.held_now"
# The same for open alerts on every page, and for the mail that a new user gets.
ALERT_STATE = "control.notify.selectors.open_alerts"
WELCOME = "control.notify.services.welcome"
# Where people reach the panel: what links in system mail begin with.
PUBLIC_URL = ENVIRONMENT.variables.get("PUBLIC_URL", "").rstrip("/")

# --- people ---------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
LOGIN_URL = "admin:login"
# How long a link in a welcome, or for a lost password, opens the page that sets one.
PASSWORD_RESET_TIMEOUT = 24 * 3600
LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("ru", _("Russian"))]
LOCALE_PATHS = [CONTROL_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
# To the second: it is compared with logs and replies.
FORMAT_MODULE_PATH = ["control.formats"]

# --- trust ----------------------------------------------------------------------------------------

SECRET_KEY, *SECRET_KEY_FALLBACKS = ENVIRONMENT.django_keys()
DEBUG = False
ALLOWED_HOSTS = ENVIRONMENT.hosts()
CSRF_TRUSTED_ORIGINS = [
    url for url in [ENVIRONMENT.variables.get("PUBLIC_URL", "").rstrip("/")] if url
]
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_NAME = "postfleet_session"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = ENVIRONMENT.serves_https
SECURE_REDIRECT_EXEMPT = [r"^health$", r"^readiness$"]
# Only where a proxy stands in front of us; it must overwrite what clients send.
if ENVIRONMENT.serves_https:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_HSTS_SECONDS = 30 * 24 * 3600 if ENVIRONMENT.serves_https else 0
# The installation is one host of its operator's domain: it must not decide for the others.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "control.error_pages.csrf_failure"
# What all web processes of an installation count together (control.accounts.login).
CACHES: dict[str, Any] = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    if POSTFLEET is None
    else {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": POSTFLEET.redis_url,
        "KEY_PREFIX": "panel",
        "OPTIONS": {"socket_timeout": 2, "socket_connect_timeout": 2},
    }
}

# --- files, API, logs -----------------------------------------------------------------------------

STATIC_URL = "static/"
# Served from the packages themselves: there is no collectstatic step that could be forgotten.
STATIC_ROOT = None
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024 * 1024
REST_FRAMEWORK = {
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Postfleet API",
    "VERSION": "2",
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": ["control.api.components.name_problems"],
}
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "filters": {"links": {"()": "control.logs.HideLinks"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["links"]}
    },
    # Scanners ask for any host; they get a 400, and no trace in the log.
    "loggers": {"django.security.DisallowedHost": {"handlers": [], "propagate": False}},
    "root": {
        "handlers": ["stderr"],
        "level": POSTFLEET.log_level if POSTFLEET is not None else "INFO",
    },
}
