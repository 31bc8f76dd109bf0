"""How the processes of a run share its work."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Ranks are numbered with the tensor rank running fastest, then the pipeline's, then the data-parallel one.

    Each data-parallel rank takes its own examples; the tensor and pipeline ranks of one share them.

    Raises:
        ValueError: the sizes do not multiply to the world size, or the examples of a step cannot be shared out.
    """

    rank: int
    world_size: int
    batch_examples: int  # of one optimizer step, over all ranks
    micro_batch: int  # examples of one forward pass on one data-parallel rank
    tensor_size: int = 1
    pipeline_size: int = 1

    def __post_init__(self) -> None:
        if self.world_size % (self.tensor_size * self.pipeline_size):
            raise ValueError(
                f"{self.world_size} processes cannot be cut into groups of {self.tensor_size} × {self.pipeline_size}."
            )
        if self.batch_examples % (self.micro_batch * self.data_size):
            raise ValueError(
                f"{self.batch_examples} examples cannot be shared out in micro-batches of {self.micro_batch} "
                f"to {self.data_size} ranks."
            )

    @property
    def data_size(self) -> int:
        return self.world_size // (self.tensor_size * self.pipeline_size)

    @property
    def data_rank(self) -> int:
        return self.rank // (self.tensor_size * self.pipeline_size)

    @property
    def tensor_rank(self) -> int:
        return self.rank % self.tensor_size

    @property
    def pipeline_rank(self) -> int:
        return self.rank // self.tensor_size % self.pipeline_size

    @property
    def examples_per_rank(self) -> int:
        """Of one optimizer step."""
        return self.batch_examples // self.data_size

    @property
    def accumulation(self) -> int:
        """Micro-batches of one optimizer step on each rank."""
        return self.examples_per_rank // self.micro_batch
