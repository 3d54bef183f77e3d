"""What a recipient domain and its mail servers demand of TLS.

Gives    StsPolicy, parse_sts_record, parse_sts_policy (RFC 8461); Tlsa, TlsaAnswer, usable, matches
         (RFC 6698, RFC 7672); Wish, TlsDemand, Level, Proof, plan_wish, demand_of_host, Proven;
         demand_of_relay
Takes    texts and records as they came; what operators, the sender and the message ask
Raises   StsError for a policy that is none
Follows  docs/smtp.md, section TLS
"""

from mailcore.security.demand import CLEAR as CLEAR
from mailcore.security.demand import Level as Level
from mailcore.security.demand import Proof as Proof
from mailcore.security.demand import Proven as Proven
from mailcore.security.demand import TlsDemand as TlsDemand
from mailcore.security.demand import Wish as Wish
from mailcore.security.demand import demand_of_host as demand_of_host
from mailcore.security.demand import plan_wish as plan_wish
from mailcore.security.der import public_key_of as public_key_of
from mailcore.security.names import host_name as host_name
from mailcore.security.names import is_named as is_named
from mailcore.security.relay import demand_of_relay as demand_of_relay
from mailcore.security.sts import StsAnswer as StsAnswer
from mailcore.security.sts import StsError as StsError
from mailcore.security.sts import StsMode as StsMode
from mailcore.security.sts import StsPolicy as StsPolicy
from mailcore.security.sts import parse_sts_policy as parse_sts_policy
from mailcore.security.sts import parse_sts_record as parse_sts_record
from mailcore.security.tlsa import Tlsa as Tlsa
from mailcore.security.tlsa import TlsaAnswer as TlsaAnswer
from mailcore.security.tlsa import TlsaUsage as TlsaUsage
from mailcore.security.tlsa import TxtAnswer as TxtAnswer
from mailcore.security.tlsa import matches as matches
from mailcore.security.tlsa import strongest as strongest
from mailcore.security.tlsa import usable as usable
