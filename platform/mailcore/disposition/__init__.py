"""Decide what follows one attempt, and write the events that tell it.

Gives    Finish, Defer, Settlement (what the ledger is told), Disposition; Rulebook, write_rulebook;
         plan; plan_expired, plan_stopped, plan_purged, plan_unroutable, plan_unknown_due,
         plan_restored
Takes    outcomes or rows, the rulebook of a snapshot, the node, now, a draw from [0, 1)
Raises   nothing; a reply no rule covers keeps the reading of its code, rule `unclassified`
Follows  design.md section 3 step 7; RFC 5321 §4.5.4.1 (retry, give-up), §4.5.3.1.10 (552 at RCPT)

The pattern decides before the code. A refusal before RCPT is about us and bounces nobody, nor
does one whose scope is wider than the message; such failures use up no retries either: they end
with the lifetime. An answer of our own bounces only where the attempt itself said so.
"""

from mailcore.disposition.attempt import plan as plan
from mailcore.disposition.desk import Rulebook as Rulebook
from mailcore.disposition.desk import write_rulebook as write_rulebook
from mailcore.disposition.settlement import Defer as Defer
from mailcore.disposition.settlement import Disposition as Disposition
from mailcore.disposition.settlement import Finish as Finish
from mailcore.disposition.settlement import Settlement as Settlement
from mailcore.disposition.unattempted import plan_expired as plan_expired
from mailcore.disposition.unattempted import plan_purged as plan_purged
from mailcore.disposition.unattempted import plan_restored as plan_restored
from mailcore.disposition.unattempted import plan_stopped as plan_stopped
from mailcore.disposition.unattempted import plan_unknown_due as plan_unknown_due
from mailcore.disposition.unattempted import plan_unroutable as plan_unroutable
