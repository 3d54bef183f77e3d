"""RFC 5322 content: built from parts, or repaired as it was brought.

Gives    build (Parts -> Content), repair (bytes -> Content); Mailbox, Attachment;
         to_7bit (for a server that takes no 8-bit content); reencode (as an ISP wants its texts)
Raises   SubmissionRefused with pointers for what cannot become a sound message
Follows  RFC 5322, RFC 2045-2047, RFC 2231, RFC 6532
"""

from mailcore.render.build import Attachment, Mailbox, Parts, build
from mailcore.render.content import Content
from mailcore.render.downgrade import to_7bit
from mailcore.render.reencode import reencode
from mailcore.render.repair import repair

__all__ = ["Attachment", "Content", "Mailbox", "Parts", "build", "reencode", "repair", "to_7bit"]
