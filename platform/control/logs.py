"""What no line of a log may say.

Gives    HideLinks, a filter of log records
Takes    the path of a request, which Django logs when it ends in an error
"""

from __future__ import annotations

import logging
import re

_LINK = re.compile(r"(/set_password/[^/\s]+/)[^/\s]+")


class HideLinks(logging.Filter):
    """Blots out the token of a link that sets a password: it works until it is used."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, without the token."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                _LINK.sub(r"\1…", one) if isinstance(one, str) else one for one in record.args
            )
        return True
