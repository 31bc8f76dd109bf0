"""How the ranks of a run share its batches."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Tensor, pipeline and data-parallel ranks; the tensor rank varies fastest, the data-parallel rank slowest.

    Each data-parallel rank takes its own examples; the tensor and pipeline ranks within it share them.

    Raises:
        ValueError: the world size is not divisible by the sizes, or the batch by micro-batch and data-parallel size.
    """

    rank: int
    world_size: int
    batch_examples: int  # per optimizer step, over all ranks
    micro_batch: int  # examples per forward pass on one data-parallel rank
    tensor_size: int = 1
    pipeline_size: int = 1

    def __post_init__(self) -> None:
        if self.world_size % (self.tensor_size * self.pipeline_size):
            raise ValueError(
                f"{self.world_size} ranks cannot be divided into groups of {self.tensor_size} × {self.pipeline_size}."
            )
        if self.batch_examples % (self.micro_batch * self.data_size):
            raise ValueError(
                f"{self.batch_examples} examples cannot be divided into micro-batches of {self.micro_batch} "
                f"on {self.data_size} ranks."
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
        """Examples per optimizer step on each data-parallel rank."""
        return self.batch_examples // self.data_size

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step on each rank."""
        return self.examples_per_rank // self.micro_batch
