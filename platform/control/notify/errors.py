"""Why a system mail did not leave."""

from mailcore.errors import PostfleetError


class NotSent(PostfleetError):
    """The message has not left; it is tried again."""


class Undeliverable(PostfleetError):
    """The message will never leave."""
