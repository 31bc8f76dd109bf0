"""Byte-level BPE tokenizer (Sennrich et al. 2016, over UTF-8 bytes): training, encoding and decoding."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers

from minimind.tokenizer.config import END_OF_TEXT, RESERVED_TOKENS, SPECIAL_TOKENS
from minimind.tokenizer.lossless import disable_extras, ids_problem, model_problem, text_problem
from minimind.tokenizer.symbols import BYTE_OF_SYMBOL
from minimind.utils.errors import DamagedFile, UserError, in_brief
from minimind.utils.files import read_object, write_text


class BPE:
    """A Hugging Face tokenizer with lossless encoding, batches of documents and the byte length of each token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        end_of_text = tokenizer.token_to_id(END_OF_TEXT)
        if end_of_text is None:
            raise UserError(f"A tokenizer must have the token {END_OF_TEXT}, but this one does not; add it.")
        self.tokenizer = tokenizer
        self.end_of_text = end_of_text
        self._added = tokenizer.get_added_tokens_decoder()

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        reserved: Sequence[str] = RESERVED_TOKENS,
        split_digits: bool = True,
    ) -> "BPE":
        """Train on `texts`; options as in `TokenizerConfig`."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if split_digits:
            digits = pre_tokenizers.Digits(individual_digits=True)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(name, normalized=False) for name in (*SPECIAL_TOKENS, *reserved)],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        content = json.loads(tokenizer.to_str())
        for token in content["added_tokens"]:  # the trainer makes every token it is given a special one
            token["special"] = token["content"].startswith("<|")
        return cls(Tokenizer.from_str(json.dumps(content, ensure_ascii=False)))

    @classmethod
    def load(cls, path: Path) -> "BPE":
        """Raises: UserError, if the file is not a tokenizer, or its tokenizer is not lossless."""
        expected = "a tokenizer.json of Hugging Face's tokenizers"
        if not path.is_file():
            raise UserError(f"{path} must be {expected}, but does not exist.")
        content = disable_extras(original := read_object(path, expected))
        if found := model_problem(content):
            raise UserError(f"{path} {found}")
        try:
            # The content is usually unchanged, and the library reads the file directly in half the time.
            bpe = cls(
                Tokenizer.from_file(str(path))
                if content == original
                else Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
            )
            vocabulary = bpe.tokenizer.get_vocab()
            found = bpe._problem(vocabulary) or ids_problem(vocabulary, content) or text_problem(bpe)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except BaseException as error:  # for an invalid file, the library raises bare Exceptions and panics
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise DamagedFile(f"{path} must be {expected}, but loading it failed: {in_brief(error)}.") from None
        if found:
            raise UserError(f"{path} {found}")
        return bpe

    def _problem(self, vocabulary: dict[str, int]) -> str | None:
        if not isinstance(self.tokenizer.model, models.BPE):
            kind = type(self.tokenizer.model).__name__
            return f"must be a byte-level BPE, but its `model.type` is {kind}, which loses out-of-vocabulary text."
        learned = vocabulary.keys() - {token.content for token in self._added.values()}
        if invalid := sorted(set("".join(learned)) - set(BYTE_OF_SYMBOL)):
            return f"must be a byte-level tokenizer, but has tokens with {''.join(invalid[:10])!r}."
        if not self.is_special(self.end_of_text):
            return (
                f"must have {END_OF_TEXT} as a special token, which text cannot produce, but has it as an ordinary "
                'one; set "special": true for it in `added_tokens`.'
            )
        return None

    def save(self, path: Path) -> None:
        write_text(path, self.tokenizer.to_str())

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    @cached_property
    def token_bytes(self) -> NDArray[np.int64]:
        """Number of UTF-8 bytes of each token, (V,); 0 for special tokens."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token_id in self.tokenizer.get_vocab().values():
            lengths[token_id] = 0 if self.is_special(token_id) else len(self.bytes_of(token_id))
        return lengths

    def is_added(self, token_id: int) -> bool:
        """Whether a token was added rather than learned: a special token, or one matched in text, such as <think>."""
        return token_id in self._added

    def is_special(self, token_id: int) -> bool:
        return token_id in self._added and self._added[token_id].special

    def bytes_of(self, token_id: int) -> bytes:
        """Bytes that a token encodes; for an added token, those of its name."""
        if token_id in self._added:
            return self._added[token_id].content.encode()
        return bytes(BYTE_OF_SYMBOL[symbol] for symbol in self.tokenizer.id_to_token(token_id) or "")

    def encode(self, text: str) -> list[int]:
        """Encode text; special tokens in it are treated as ordinary text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._encodings(texts)]

    def encode_documents(self, texts: Sequence[str], dtype: np.dtype) -> tuple[NDArray, NDArray[np.int64]]:
        """Tokens of all documents, each followed by <|endoftext|>, concatenated; and the length of each document."""
        lengths = np.empty(len(texts), dtype=np.int64)
        tokens = array(dtype.char)
        for document, encoding in enumerate(self._encodings(texts)):
            ids = encoding.ids
            ids.append(self.end_of_text)
            tokens.fromlist(ids)  # fastest way to convert the library's lists, with only one of them in memory
            lengths[document] = len(ids)
        return np.frombuffer(tokens, dtype=tokens.typecode), lengths

    def encode_pieces(
        self, documents: Sequence[Sequence[tuple[str, bool]]], dtype: np.dtype
    ) -> tuple[NDArray, NDArray[np.int64], NDArray[np.bool_]]:
        """Like `encode_documents`, for documents in pieces of (text, is target); also returns each token's target bit.

        Each piece is encoded separately, so no token spans two pieces. <|endoftext|> is a target.
        """
        encodings = iter(self._encodings([text for pieces in documents for text, _ in pieces]))
        tokens, lengths, targets = array(dtype.char), np.empty(len(documents), dtype=np.int64), bytearray()
        for document, pieces in enumerate(documents):
            before = len(tokens)
            for _, is_target in pieces:
                ids = next(encodings).ids
                tokens.fromlist(ids)
                targets += bytes([is_target]) * len(ids)
            tokens.append(self.end_of_text)
            targets.append(True)
            lengths[document] = len(tokens) - before
        return np.frombuffer(tokens, dtype=tokens.typecode), lengths, np.frombuffer(targets, dtype=bool)

    def _encodings(self, texts: Sequence[str]) -> list[Encoding]:
        self.tokenizer.encode_special_tokens = True
        return self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def stream_decode(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield text as it is decoded; a character split over several tokens is withheld until it is complete."""
        pending: list[int] = []
        for token_id in ids:
            pending.append(token_id)
            text = self.decode(pending)
            if not text.endswith("�"):
                yield text
                pending = []
        if pending:
            yield self.decode(pending)
