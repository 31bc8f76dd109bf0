"""The manifest of a folder of token shards: what each shard holds, what they were made with, and their fingerprint."""

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
VERSION_WITH_TARGETS = 3  # a shard with a bit for each token, and a folder that has such a shard


@dataclass
class ShardInfo:
    name: str
    tokens: int
    documents: int
    text_bytes: int  # of the text that is a target: loss is counted on targets only, so bits per byte need these
    sha256: str
    targets: int | None = None  # tokens that are targets; None: all are, and the shard stores no bits

    @property
    def version(self) -> int:
        return VERSION if self.targets is None else VERSION_WITH_TARGETS

    @property
    def num_targets(self) -> int:
        return self.tokens if self.targets is None else self.targets

    def as_json(self) -> dict[str, Any]:
        """Without `targets` where all are: such a manifest is the one that was written before there were any others."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def write_manifest(folder: Path, tokenizer_hash: str, infos: Sequence[ShardInfo], about: dict[str, Any]) -> None:
    version = max((info.version for info in infos), default=VERSION)
    manifest = {"version": version, "tokenizer": tokenizer_hash, "shards": [info.as_json() for info in infos]}
    text_bytes, targets = sum(info.text_bytes for info in infos), sum(info.num_targets for info in infos)
    sums = {
        "documents": sum(info.documents for info in infos),
        "tokens": sum(info.tokens for info in infos),
        "bytes": text_bytes,
        "bytes_per_token": text_bytes / max(1, targets),
    }
    if version == VERSION_WITH_TARGETS:
        sums["targets"] = targets
    content = {**manifest, **sums, **about, "fingerprint": _fingerprint(manifest)}
    write_json(folder / MANIFEST, {**content, "sha256": _content_hash(content)})


def read_manifest(folder: Path) -> dict:
    """Raises: UserError, if there is none, it is not as it was written, or a newer version wrote it."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} must hold token shards, but has no {MANIFEST}; prepare the data again.")
    try:
        manifest = read_json(path)
        unchanged = manifest.pop("sha256") == _content_hash(manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged(path, "must be a manifest of token shards, but cannot be read as one") from None
    if not unchanged:
        raise damaged(path, "must be as it was written, but was edited")
    if manifest["version"] not in (VERSION, VERSION_WITH_TARGETS):
        raise damaged(path, f"must be of version {VERSION} or {VERSION_WITH_TARGETS}, but is of {manifest['version']}")
    return manifest


def damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}; delete {path.parent.parent} and run the same command to prepare the data again.")


def _content_hash(manifest: dict) -> str:
    """Of all that a manifest says."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _fingerprint(manifest: dict) -> str:
    """Of the tokens in their order, whatever the folder is called."""
    parts = [str(manifest["version"]), manifest["tokenizer"], *(shard["sha256"] for shard in manifest["shards"])]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()
