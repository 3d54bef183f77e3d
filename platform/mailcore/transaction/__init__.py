"""The SMTP dialogue of a session as a state machine: replies in, commands out.

Gives    WireMessage and RecipientReply (what a transaction carries, what it came to); Dialogue and
         the steps it asks of the line; Credentials; Extensions; ReplyReader; dot_stuffed
Raises   nothing
Follows  RFC 5321 §3.3, §4.1-4.3
"""

from mailcore.dsn import DsnRequest as DsnRequest
from mailcore.dsn import DsnReturn as DsnReturn
from mailcore.dsn import Notify as Notify
from mailcore.transaction.auth import Credentials as Credentials
from mailcore.transaction.auth import Mechanism as Mechanism
from mailcore.transaction.dialogue import Dialogue as Dialogue
from mailcore.transaction.extensions import Extensions as Extensions
from mailcore.transaction.message import RecipientReply as RecipientReply
from mailcore.transaction.message import Stage as Stage
from mailcore.transaction.message import Transaction as Transaction
from mailcore.transaction.message import WireMessage as WireMessage
from mailcore.transaction.message import dot_stuffed as dot_stuffed
from mailcore.transaction.replies import ReplyReader as ReplyReader
from mailcore.transaction.steps import Done as Done
from mailcore.transaction.steps import Failed as Failed
from mailcore.transaction.steps import FaultKind as FaultKind
from mailcore.transaction.steps import Ready as Ready
from mailcore.transaction.steps import SendContent as SendContent
from mailcore.transaction.steps import StartTls as StartTls
from mailcore.transaction.steps import Step as Step
from mailcore.transaction.steps import Write as Write
