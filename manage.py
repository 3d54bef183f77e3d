#!/usr/bin/env python3
"""Django's entry point; puts platform/ on sys.path, and says in a line what stops it."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent / "platform"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "control.settings")

    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line

        try:
            execute_from_command_line(sys.argv)
        except ImproperlyConfigured as exc:
            sys.exit(f"manage.py: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
