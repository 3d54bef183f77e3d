"""The server's dialogue: what a client sends, and what is done about it.

Gives    Reception (octets in, steps out), the steps, Letter, Limits, Gauge; read_orders and
         received_field for who makes a letter ours; Meter (who does something too often)
Follows  RFC 5321 and the extensions named in dialogue.py
"""

from mailcore.reception.dialogue import Reception
from mailcore.reception.meter import Meter
from mailcore.reception.replies import reply_octets
from mailcore.reception.trace import read_orders, received_field
from mailcore.reception.values import (
    Admission,
    Close,
    Doorkeeper,
    Gauge,
    Identity,
    Letter,
    LetterRecipient,
    Limits,
    Say,
    StartTls,
    Step,
    Take,
    Verify,
    Waits,
)

__all__ = [
    "Admission",
    "Close",
    "Doorkeeper",
    "Gauge",
    "Identity",
    "Letter",
    "LetterRecipient",
    "Limits",
    "Meter",
    "Reception",
    "Say",
    "StartTls",
    "Step",
    "Take",
    "Verify",
    "Waits",
    "read_orders",
    "received_field",
    "reply_octets",
]
