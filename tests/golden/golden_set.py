"""The golden runs: small runs that each cover code paths the others don't."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GoldenRun:
    name: str
    overrides: tuple[str, ...]
    after: str | None = None  # name of a run whose folder this one reads, as ../<after>/run
    stopped_at: int | None = None  # send SIGTERM once this step is logged, then repeat the command
    same_as: str | None = None  # name of a run whose results this one must equal
    evaluated: bool = False  # also run evaluate.py


SMALL = (
    "seed=7", "model.hidden_size=32", "model.vocab_size=400", "model.max_position_embeddings=256",
    "data.sequence_length=64", "trainer.batch_tokens=512", "trainer.max_steps=60", "schedule.warmup_steps=5",
    "trainer.log_every_steps=4", "trainer.validate_every_steps=20", "trainer.checkpoint_every_steps=20",
    "trainer.num_threads=1", "trainer.precision=32-true", "evaluation.max_new_tokens=16",
)  # fmt: skip
PROSE = (*SMALL, "data=text", "data.files=[prose.txt]", "data.block_kb=1")
NOTES = (*SMALL, "data=jsonl", "data.files=[notes.jsonl]")
MOE = (
    *PROSE, "model.num_experts=4", "model.num_experts_per_tok=2", "model.moe_intermediate_size=32",
    "model.router_z_loss_coef=0.001", "model.dropout=0.1", "model.attention_dropout=0.1", "trainer.micro_batch=2",
    "callbacks=[default,moe_load,samples,memory]", "callbacks.samples.every_steps=20",
)  # fmt: skip
DDP = (*PROSE, "parallel=ddp", "trainer.devices=2", "trainer.micro_batch=2", "model.dropout=0.1", "model.num_experts=4",
       "model.moe_intermediate_size=32", "model.balance_loss=loss_free", "model.router_bias_update_rate=0.01",
       "model.norm_topk_prob=false")  # fmt: skip
SOURCES = (
    "{prose: {weight: 2, kind: text, files: [prose.txt], block_kb: 1}, notes: {kind: jsonl, files: [notes.jsonl]}}"
)

GOLDEN_RUNS = (
    # the default settings; the text is the running Python's standard library
    GoldenRun(
        "default", ("trainer.max_steps=200", "trainer.validate_every_steps=200", "trainer.num_threads=1"),
        evaluated=True,
    ),
    GoldenRun("moe", MOE),
    GoldenRun("ddp", DDP),
    GoldenRun("moe_resumed", (*MOE, "run.tag=resumed"), stopped_at=12, same_as="moe"),
    GoldenRun("ddp_resumed", (*DDP, "run.tag=resumed"), stopped_at=12, same_as="ddp"),
    GoldenRun("mixture", (*SMALL, "data=mixture", f"data.sources={SOURCES}", "data.num_workers=1"), evaluated=True),
    GoldenRun("pad", (*NOTES, "data.packing=pad", "trainer.max_steps=null", "trainer.epochs=1.5")),
    GoldenRun("document_mask", (*NOTES, "data.document_mask=true", "model.attention_backend=sdpa"), evaluated=True),
    GoldenRun(
        "muon",
        (*PROSE, "optim=muon", "schedule=wsd", "model.gradient_checkpointing=true", "trainer.num_threads=2"),
    ),
    GoldenRun(
        "loss_free",
        (*PROSE, "model.num_experts=4", "model.num_experts_per_tok=2", "model.moe_intermediate_size=32",
         "model.num_shared_experts=1", "model.decoder_sparse_step=2", "model.router_score=sigmoid",
         "model.balance_loss=loss_free", "model.router_bias_update_rate=0.01"),
    ),
    GoldenRun(
        "tied_and_yarn",
        (*PROSE, "model.tie_word_embeddings=true", "model.embedding_initializer_range=null",
         "optim.embedding_lr_ratio=1", "model.qk_norm=false", "evaluation.context_factors=[1,2,4]",
         "evaluation.yarn=true"),
    ),
    GoldenRun(
        "layernorm",
        (*PROSE, "model.norm=layernorm", "model.position=learned", "model.hidden_act=gelu", "model.gated_mlp=false",
         "model.residual_init=depth_scaled", "trainer.gradient_clip=0", "schedule=linear", "logger.watch=all"),
    ),
    GoldenRun(
        "init_from",
        (*PROSE, "model.tie_word_embeddings=true", "model.embedding_initializer_range=null",
         "optim.embedding_lr_ratio=1", "model.qk_norm=false", "tokenizer=file",
         "tokenizer.path=../tied_and_yarn/run/tokenizer.json", "init_from=../tied_and_yarn/run", "schedule=constant"),
        after="tied_and_yarn",
    ),
    GoldenRun(
        "bf16_mixed", (*PROSE, "trainer.precision=bf16-mixed", "model.position=sinusoidal", "model.head_dim=32",
                       "model.attention_backend=sdpa"),
    ),
    GoldenRun("bf16_true", (*PROSE, "trainer.precision=bf16-true", "model.position=none", "model.hidden_act=relu")),
    GoldenRun(
        "early_stopping",
        (*PROSE, "callbacks=[default,early_stopping]", "callbacks.early_stopping.min_delta=100",
         "callbacks.early_stopping.patience=1"),
    ),
    # a multirun over the arms of an ablation
    GoldenRun("sweep", ("-m", "ablation=qk_norm", "ablation.seeds=[7]", "hydra.launcher.num_parallel=1",
                        *(o for o in PROSE if o != "seed=7"))),
)  # fmt: skip
