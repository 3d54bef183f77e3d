"""Find and bind ports on loopback.

Gives    bind_all()
Takes    addresses, a port (0 for a free one)
Raises   OSError naming the addresses and the port
Follows  nothing; ports lie below the ephemeral range, so that no connection of ours sits on one
"""

import random
import socket

# Below the ephemeral range, so that no outgoing connection sits on the port.
FREE_PORTS = range(20_000, 32_000)


def bind_all(addresses: list[str], port: int, kind: socket.SocketKind) -> list[socket.socket]:
    """Bind one port on all addresses; port 0 tries free ports until one serves them all."""
    ports = [port] if port else random.sample(FREE_PORTS, 50)
    failure: OSError | None = None
    for candidate in ports:
        bound: list[socket.socket] = []
        try:
            for address in addresses:
                one = socket.socket(socket.AF_INET, kind)
                bound.append(one)
                if kind is socket.SOCK_STREAM:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((address, candidate))
                one.setblocking(False)
        except OSError as exc:
            failure = OSError(
                exc.errno, f"cannot bind {addresses} port {candidate}: {exc.strerror}"
            )
            for one in bound:
                one.close()
            continue
        return bound
    raise failure or OSError("no port to try")
