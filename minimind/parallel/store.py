"""The key-value store in which the ranks of a tree find each other, where nobody else can reach it if that can be."""

import os
import socket
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from torch.distributed import FileStore, PrefixStore, Store, TCPStore

from minimind.parallel.environment import joined_tree
from minimind.utils.errors import UserError
from minimind.utils.ranks import is_main_process


def open_store(file: Path | None, timeout: timedelta) -> Store:
    """In `file`, which the ranks of our own tree have; else torchrun's, or rank 0's at the rendezvous address.

    Raises:
        UserError: rank 0 cannot be reached at that address.
        OSError, RuntimeError: torch's or the system's reasons, such as a port that is taken.
    """
    if file is not None:
        store = FileStore(str(file))
        store.set_timeout(timeout)
        return store
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    listening = _listen(host, port).detach() if is_main_process() and not hosted else None
    everything = TCPStore(
        host, port, is_master=listening is not None, master_listen_fd=listening, timeout=timeout, wait_for_workers=False
    )
    # When torchrun starts the ranks again, its store still has what those before them said.
    return PrefixStore(f"start{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", everything)


def _listen(host: str, port: int) -> socket.socket:
    """At the address that `host` is here: by itself a TCPStore would listen at all that this machine has."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    tree = joined_tree()
    if tree is not None and tree.num_nodes > 1:
        found = [entry for entry in found if not ip_address(entry[4][0]).is_loopback]
        if not found:  # as Debian writes a machine's own name into /etc/hosts
            raise UserError(
                f"`MASTER_ADDR` must be an address at which the other nodes reach rank 0, but {host} is the loopback "
                "address there; set it to the IP address of that node."
            )
    family, _, _, _, address = found[0]
    return socket.create_server(address, family=family)
