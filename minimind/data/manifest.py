"""Manifest of a folder of token shards: their contents, how they were made, and a fingerprint."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json

MANIFEST = "manifest.json"
VERSION = 2  # every token is a target
VERSION_WITH_TARGETS = 3  # a shard that stores target bits, and a folder with such a shard


@dataclass
class ShardInfo:
    name: str
    tokens: int
    documents: int
    text_bytes: int  # bytes of target text, as needed for bits per byte: loss is computed on targets only
    sha256: str
    targets: int | None = None  # number of target tokens; None: all are targets, and the shard stores no target bits

    @property
    def version(self) -> int:
        return VERSION if self.targets is None else VERSION_WITH_TARGETS

    @property
    def num_targets(self) -> int:
        return self.tokens if self.targets is None else self.targets

    def to_json(self) -> dict[str, Any]:
        """Omit `targets` if all tokens are: the manifest is then the same as before target bits existed."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def write_manifest(folder: Path, tokenizer_hash: str, infos: Sequence[ShardInfo], metadata: dict[str, Any]) -> None:
    version = max((info.version for info in infos), default=VERSION)
    manifest = {"version": version, "tokenizer": tokenizer_hash, "shards": [info.to_json() for info in infos]}
    text_bytes, targets = sum(info.text_bytes for info in infos), sum(info.num_targets for info in infos)
    totals = {
        "documents": sum(info.documents for info in infos),
        "tokens": sum(info.tokens for info in infos),
        "bytes": text_bytes,
        "bytes_per_token": text_bytes / max(1, targets),
    }
    if version == VERSION_WITH_TARGETS:
        totals["targets"] = targets
    content = {**manifest, **totals, **metadata, "fingerprint": _fingerprint(manifest)}
    write_json(folder / MANIFEST, {**content, "sha256": _content_hash(content)})


def read_manifest(folder: Path) -> dict:
    """Raises: UserError, if it is missing, damaged, edited or of an unknown version."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} must hold token shards, but has no {MANIFEST}; prepare the data again.")
    try:
        manifest = read_json(path)
        unchanged = manifest.pop("sha256") == _content_hash(manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged_error(path, "must be a manifest of token shards, but cannot be read as one") from None
    if not unchanged:
        raise damaged_error(path, "must be unchanged, but was edited")
    if manifest["version"] not in (VERSION, VERSION_WITH_TARGETS):
        raise damaged_error(
            path, f"must have version {VERSION} or {VERSION_WITH_TARGETS}, but has {manifest['version']}"
        )
    return manifest


def damaged_error(path: Path, problem: str) -> UserError:
    return UserError(
        f"{path} {problem}; delete {path.parent.parent} and run the same command to prepare the data again."
    )


def _content_hash(manifest: dict) -> str:
    """Hash of all entries."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _fingerprint(manifest: dict) -> str:
    """Hash of the tokens in order, independent of the folder's name."""
    parts = [str(manifest["version"]), manifest["tokenizer"], *(shard["sha256"] for shard in manifest["shards"])]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()
