"""What the engines ask of the world, and what they may be told instead.

Gives    Protocols for policy, clock, ledger, outbox, spool, journal, resolver, connector,
         host memory, shaper, bells, vault and statistics; the values that cross them; the errors
         they may raise
Raises   (adapters) TransportError and its kinds for a line to a mail server; StoreUnavailable for
         one of our own stores. Nothing else crosses a port.
Follows  style.md section 4; design.md sections 2-4

Ports of the delivery path are async: their adapters block on threads of their own, never on the
loop. Ports of event and upkeep work are plain, because their tasks run on Celery's threads.
"""

from mailcore.disposition import Defer as Defer
from mailcore.disposition import Finish as Finish
from mailcore.disposition import Settlement as Settlement
from mailcore.ports.check import CheckedContents as CheckedContents
from mailcore.ports.check import QueueChecker as QueueChecker
from mailcore.ports.disk import Journal as Journal
from mailcore.ports.disk import JournalShelf as JournalShelf
from mailcore.ports.disk import Recovery as Recovery
from mailcore.ports.disk import SpoolReader as SpoolReader
from mailcore.ports.disk import SpoolWriter as SpoolWriter
from mailcore.ports.errors import ConnectFailed as ConnectFailed
from mailcore.ports.errors import Disconnected as Disconnected
from mailcore.ports.errors import LoopsBack as LoopsBack
from mailcore.ports.errors import StoreFull as StoreFull
from mailcore.ports.errors import StoreUnavailable as StoreUnavailable
from mailcore.ports.errors import TimedOut as TimedOut
from mailcore.ports.errors import TlsFailed as TlsFailed
from mailcore.ports.errors import TransportError as TransportError
from mailcore.ports.errors import Undeliverable as Undeliverable
from mailcore.ports.errors import Withheld as Withheld
from mailcore.ports.happened import KeyedMail as KeyedMail
from mailcore.ports.happened import Outbox as Outbox
from mailcore.ports.happened import OutboxBatch as OutboxBatch
from mailcore.ports.happened import OutboxCursor as OutboxCursor
from mailcore.ports.happened import ReportDoor as ReportDoor
from mailcore.ports.happened import Statistics as Statistics
from mailcore.ports.happened import StopLists as StopLists
from mailcore.ports.inbound import InboundLedger as InboundLedger
from mailcore.ports.inbound import InboundRecord as InboundRecord
from mailcore.ports.inbound import MailboxError as MailboxError
from mailcore.ports.inbound import MailboxItem as MailboxItem
from mailcore.ports.inbound import MailboxReader as MailboxReader
from mailcore.ports.inbound import MailboxSession as MailboxSession
from mailcore.ports.inbound import Seen as Seen
from mailcore.ports.inbound import SeenState as SeenState
from mailcore.ports.inbound import Traces as Traces
from mailcore.ports.limits import Bells as Bells
from mailcore.ports.limits import Shaper as Shaper
from mailcore.ports.limits import Vault as Vault
from mailcore.ports.queue import Chores as Chores
from mailcore.ports.queue import Clock as Clock
from mailcore.ports.queue import DeadIncarnation as DeadIncarnation
from mailcore.ports.queue import DomainRoute as DomainRoute
from mailcore.ports.queue import DueLane as DueLane
from mailcore.ports.queue import HoldSource as HoldSource
from mailcore.ports.queue import LaneClaim as LaneClaim
from mailcore.ports.queue import Ledger as Ledger
from mailcore.ports.queue import PolicySource as PolicySource
from mailcore.ports.spool import SpoolLedger as SpoolLedger
from mailcore.ports.spool import SpoolShelf as SpoolShelf
from mailcore.ports.wire import Connection as Connection
from mailcore.ports.wire import Connector as Connector
from mailcore.ports.wire import Endpoint as Endpoint
from mailcore.ports.wire import HostMemory as HostMemory
from mailcore.ports.wire import Resolver as Resolver
from mailcore.ports.wire import StsSource as StsSource
from mailcore.ports.wire import WireTransaction as WireTransaction
from mailcore.routing.hosts import KnownHosts as KnownHosts
from mailcore.routing.site import AddressAnswer as AddressAnswer
from mailcore.routing.site import DnsStatus as DnsStatus
from mailcore.routing.site import MxAnswer as MxAnswer
from mailcore.routing.site import MxHost as MxHost
from mailcore.security import Proven as Proven
from mailcore.security import StsAnswer as StsAnswer
from mailcore.security import Tlsa as Tlsa
from mailcore.security import TlsaAnswer as TlsaAnswer
from mailcore.security import TlsDemand as TlsDemand
from mailcore.security import TxtAnswer as TxtAnswer
from mailcore.shaping.strategy import Grant as Grant
from mailcore.shaping.strategy import Rate as Rate
from mailcore.transaction import RecipientReply as RecipientReply
from mailcore.transaction import WireMessage as WireMessage
