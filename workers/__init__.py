"""The Celery fleet. Importing it puts platform/ on the path, as manage.py does."""

import sys
from pathlib import Path

_PLATFORM = str(Path(__file__).resolve().parent.parent / "platform")
if _PLATFORM not in sys.path:
    sys.path.insert(0, _PLATFORM)
