"""The WSGI entry point: `gunicorn control.wsgi` with PYTHONPATH=.:platform."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "control.settings")
application = get_wsgi_application()
