"""The key-value store through which the ranks of a run meet, kept out of reach of other users where possible."""

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
    """Open the store in `file`, for ranks started by train.py; else torchrun's, or rank 0's at the rendezvous address.

    Raises:
        UserError: other nodes cannot reach rank 0 at that address.
        OSError, RuntimeError: from torch or the system, such as a port in use.
    """
    if file is not None:
        file_store = FileStore(str(file))
        file_store.set_timeout(timeout)
        return file_store
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    listener = _listen(host, port).detach() if is_main_process() and not hosted else None
    store = TCPStore(
        host, port, is_master=listener is not None, master_listen_fd=listener, timeout=timeout, wait_for_workers=False
    )
    # When torchrun restarts the ranks, its store still has the keys of the previous ones.
    return PrefixStore(f"start{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _listen(host: str, port: int) -> socket.socket:
    """Listen only on the address of `host`: a TCPStore on its own would listen on all interfaces."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    tree = joined_tree()
    if tree is not None and tree.num_nodes > 1:
        entries = [entry for entry in entries if not ip_address(entry[4][0]).is_loopback]
        if not entries:  # Debian maps a machine's own name to loopback in /etc/hosts
            raise UserError(
                f"`MASTER_ADDR` must be an address at which the other nodes reach rank 0, but {host} is its loopback "
                "address; set it to the IP address of that node."
            )
    family, _, _, _, address = entries[0]
    return socket.create_server(address, family=family)
