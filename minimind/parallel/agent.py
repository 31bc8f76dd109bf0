"""Rendezvous of torch's elastic agent for a process tree on a single node."""

from torch.distributed import HashStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

ONE_NODE = "minimind"


class OneNode(RendezvousHandler):
    """Trivial rendezvous: torch's own ones listen on all interfaces and unpickle what they find in their store."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self.run_id = parameters.run_id

    def get_backend(self) -> str:
        return ONE_NODE

    def get_run_id(self) -> str:
        return self.run_id

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("127.0.0.1", 0))

    def num_nodes_waiting(self) -> int:
        return 0

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def shutdown(self) -> bool:
        return True


rendezvous_handler_registry.register(ONE_NODE, OneNode)
