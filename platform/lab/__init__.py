"""The lab: a fake internet on loopback, with DNS and mailbox providers that act on cue and count.

Gives    a world (`world`), its DNS (`dns_server`), receivers that count (`receiver`), a control API
         (`control`) with its client (`client`), load (`load`) and the table of results (`report`)
Takes    nothing of the product: it imports none of our other packages, so that no fault of theirs
         can hide here
Follows  RFC 5321 (receiver), RFC 1035 (DNS)
"""
