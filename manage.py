#!/usr/bin/env python3
"""Django's entry point; puts platform/ on sys.path, and says in a line what stops it."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent / "platform"))
    # What starts the processes must run, and speak, in an environment that is wrong for them.
    of_fleet = "_fleet" if sys.argv[1:2] == ["fleet"] else ""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"control.settings{of_fleet}")

    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line

        try:
            execute_from_command_line(sys.argv)
        except ImproperlyConfigured as exc:
            sys.exit(f"manage.py: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
