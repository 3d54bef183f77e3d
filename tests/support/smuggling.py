"""Ways to write an end of data that are none.

Gives    ENDS: what one server or another has been found to read as the end of data; INERT: what
         looks like one and is content
Follows  SEC Consult's "SMTP smuggling" (December 2023) and what was found after it, with the dots
         doubled too: a relay that takes such a dot away would make the end for the next one
"""

from __future__ import annotations

ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r.\n",
    b"\n.\r",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\n\n.\r\n",
    b"\n\n.\n\n",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\n.\r\x00\n",
    b"\x00\r\n.\x00\r\n",
    b"\r\x00\n.\r\n",
    b"\n\r.\r\n",
    b"\n\r\n.\r\n",
    b"\r\n\r.\r\n",
    b"\r\n\n.\r\n",
    b"\n..\r\n",
    b"\n..\n",
    b"\r\n..\n",
    b"\r\n..\rx",
    b"\r..\r\n",
    b"\r\n..\r\r\n",
    b"\n.\x00\r\n",
    b"\n\x00.\r\n",
    b"\r\n.\n.\r\n",
]
INERT = [
    b"\r\n..\r\n",
    b"\r\n. \r\n",
    b"\r\n.\t\r\n",
    b"\r\n .\r\n",
    b"\r\n.\x0b\r\n",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\x1a.\x1a",
    b"\x85.\x85",
    b"\r\n.\x85\r\n",
    b"\r\n\xef\xbb\xbf.\r\n",
    "\u2028.\u2028".encode(),
    "\uff0e".join(["\r\n"] * 2).encode(),
]
