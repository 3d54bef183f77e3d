"""What can go wrong with a private service.

EmbeddedError
├── StartError      a service or process did not come up; carries the last lines of its log
├── MissingBinary   a wheel is not installed, or its program is not for this machine
└── StackBusy       another process is starting this stack and does not finish
"""


class EmbeddedError(Exception):
    """Any fault of the embedded stack; the text is for the operator."""


class MissingBinary(EmbeddedError):
    """A program of the embedded stack is not there."""


class StackBusy(EmbeddedError):
    """Another process holds the start lock of the same directory."""


class StartError(EmbeddedError):
    """A process did not come up in time, or ended at once."""

    def __init__(self, name: str, reason: str, log_tail: str = "") -> None:
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
        text = f"{name} did not start: {reason}"
        super().__init__(f"{text}\n{log_tail}" if log_tail else text)
