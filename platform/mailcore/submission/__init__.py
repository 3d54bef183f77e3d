"""Accept or reject what a client offers.

Gives    parse_offer (JSON -> Offer), plan_submission (Offer -> Plan), Rejected
Raises   SubmissionRefused with a JSON pointer for each thing that is wrong
"""

from mailcore.submission.offer import Offer, OfferedRecipient, parse_offer, raw_offer
from mailcore.submission.plan import Plan, Rejected, plan_submission

__all__ = [
    "Offer",
    "OfferedRecipient",
    "Plan",
    "Rejected",
    "parse_offer",
    "plan_submission",
    "raw_offer",
]
