"""The SMTP dialogue of a session as a state machine: replies in, commands out.

Gives    WireMessage and RecipientReply (what a transaction carries, what it came to); Dialogue and
         the steps it asks of the line; ReplyReader; dot_stuffed
Raises   nothing
Follows  RFC 5321 §3.3, §4.1-4.3
"""

from mailcore.transaction.dialogue import Dialogue as Dialogue
from mailcore.transaction.replies import ReplyReader as ReplyReader
from mailcore.transaction.steps import Done as Done
from mailcore.transaction.steps import Extensions as Extensions
from mailcore.transaction.steps import Failed as Failed
from mailcore.transaction.steps import FaultKind as FaultKind
from mailcore.transaction.steps import Ready as Ready
from mailcore.transaction.steps import RecipientReply as RecipientReply
from mailcore.transaction.steps import SendContent as SendContent
from mailcore.transaction.steps import Stage as Stage
from mailcore.transaction.steps import StartTls as StartTls
from mailcore.transaction.steps import Step as Step
from mailcore.transaction.steps import Transaction as Transaction
from mailcore.transaction.steps import WireMessage as WireMessage
from mailcore.transaction.steps import Write as Write
from mailcore.transaction.steps import dot_stuffed as dot_stuffed
