"""The project's settings for tests: the same, with a cheap password hash, and static files found
when they are asked for: each test has a client of its own, which would read them all first."""

from control.settings import *  # noqa: F403 (settings are a flat list of names)

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SECURE_SSL_REDIRECT = False
WHITENOISE_AUTOREFRESH = True
