"""`minimind inspect` on a trained model."""

from pathlib import Path

from minimind.cli.inspect_ import describe
from minimind.model.config import ModelConfig


def test_a_run_and_its_checkpoint_are_described(command, small_run: Path) -> None:
    text = command("minimind", "inspect", str(small_run)).stdout
    described = dict(line.split(maxsplit=1) for line in text.replace("KV cache", "cache").splitlines()[1:])
    assert list(described) == [
        "parameters", "layers", "heads", "mlp", "embedding", "context", "training", "cache", "tokenizer"
    ]  # fmt: skip
    assert described["parameters"].endswith("M")
    assert described["layers"].startswith("2 of hidden size")
    assert described["embedding"].startswith("300 tokens")
    assert described["tokenizer"] == "300 tokens"
    assert "at length 32" in described["training"]
    checkpoint = small_run / "checkpoints" / "step_00000010"
    assert command("minimind", "inspect", str(checkpoint)).stdout.splitlines()[1:] == text.splitlines()[1:]


def test_active_parameters_experts_and_cache_are_counted() -> None:
    lines = describe(ModelConfig(num_experts=4, num_shared_experts=1, decoder_sparse_step=2), 512)
    assert "active" in lines["parameters"]
    assert "1 of 4 experts" in lines["mlp"]
    assert "1 shared in 4 of the layers" in lines["mlp"]
    assert lines["KV cache"].startswith("4,096 bytes")  # 2 tensors × 8 layers × 2 heads × 64 × 2 bytes
    assert "active" not in describe(ModelConfig(), 512)["parameters"]
