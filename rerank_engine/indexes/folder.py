"""An index in a folder: segments that never change, the rows deleted from them, and a manifest that says which of them are the index.

    manifest.json             {"format", "made", "generation", "settings", "segments": [{"file", "dead"}], "crc32"}: last, renamed
    GGGGGGGG-N.segment        a member (members.py, token_members.py)
    GGGGGGGG-N.deleted        which rows of a member are deleted

A commit writes new files, syncs them, and replaces the manifest; only then old files go. What a crash leaves behind is not in the manifest:
the next commit removes it. One writer at a time, held by a lock on the file `lock`; readers need none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..errors import FileFormatError, InputError
from .files import content_of_file, kind_of, sync_folder

FORMAT, MANIFEST, LOCK = 1, "manifest.json", "lock"
TIER = 8  # segments of one tier, each up to TIER times as large as the tier below, before they are merged
_OURS = re.compile(r"(\d{8,}-\d+\.(segment|deleted))|\..*\.tmp")
_TEMPORARY = re.compile(r"\.(codec\.[0-9a-f]{16}|manifest\.json\.\d+)\.tmp")


class AnyMember(Protocol):
    """A part of an index with documents of its own. file, dead_file: names in the folder, None for what is in memory only. A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def n_rows(self) -> int: ...
    @property
    def n_live(self) -> int: ...
    @property
    def dead(self) -> Any: ...
    @property
    def file(self) -> str | None: ...
    @property
    def dead_file(self) -> str | None: ...


class Kind(Protocol):
    """What a folder has to know of its members: a module of these functions."""

    def read(self, path: Path, *, name: str | None = None, verify: bool = False, in_memory: bool = False) -> tuple[Any, dict[str, Any]]: ...
    def write(self, path: Path, member: Any, settings: dict[str, Any]) -> None: ...
    def read_dead(self, path: Path, member: Any, name: str, *, verify: bool = False, in_memory: bool = False) -> Any: ...
    def write_dead(self, path: Path, member: Any) -> None: ...
    def merge(self, members: Sequence[Any], path: Path | None, settings: dict[str, Any]) -> Any: ...
    def check(self, member: Any, name: str) -> None: ...


class Folder:
    """What is committed in a folder, and the files that are about to be."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], kind: Kind) -> None:
        self.path, self.kind, self._manifest, self._made, self._lock = path, kind, manifest, 0, -1

    @classmethod
    def create(cls, path: Path, settings: Mapping[str, Any], kind: Kind, first: Callable[[Path], None] | None = None) -> Folder:
        """first: writes what the members of this folder share (`codec`), before it is an index."""
        left = _left(path)
        if left is None:
            raise InputError(
                f"index folder {path}",
                got="something that is there already",
                expected="a new or empty folder",
                hint="To change an index: open it.",
            )
        made = os.urandom(8).hex()  # tells it from a later index in the same place, whose generations and files have the same names
        folder = cls(path, {"made": made, "generation": 0, "settings": settings, "segments": []}, kind)
        try:
            new = [place for place in (path, *path.parents) if not place.exists()]
            path.mkdir(parents=True, exist_ok=True)
            for place in new:
                sync_folder(place.parent)
            for file in left:
                file.unlink()
            if first is not None:
                first(path)
            folder._write_manifest(folder._manifest)
        except OSError as error:
            raise InputError(f"index folder {path}", got=str(error), expected="a place that can be written") from error
        return folder

    @classmethod
    def open(cls, path: Path, kind: Kind) -> Folder:
        return cls(path, _read_manifest(path), kind)

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self._manifest["settings"])

    def members(self, *, in_memory: bool = False, verify: bool = False) -> list[Any]:
        """The committed ones. A commit by another process may replace them while they are opened: then its manifest is read."""
        try:
            return [self._member(entry, in_memory, verify) for entry in self._manifest["segments"]]
        except FileFormatError:
            newer = _read_manifest(self.path)
            if newer["generation"] == self._manifest["generation"]:
                raise
            self._manifest = newer
            return self.members(in_memory=in_memory, verify=verify)

    def _member(self, entry: Mapping[str, Any], in_memory: bool, verify: bool) -> Any:
        member, _ = self.kind.read(self.path / entry["file"], name=entry["file"], verify=verify, in_memory=in_memory)
        return (
            member
            if entry["dead"] is None
            else self.kind.read_dead(self.path / entry["dead"], member, entry["dead"], verify=verify, in_memory=in_memory)
        )

    def lock(self) -> None:
        """Becomes the writer. Raises InputError when there is another, or when one has committed since this index was opened."""
        if self._lock >= 0:
            return
        try:
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"index folder {self.path}", got=str(error), expected="a folder that can be written") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise InputError(
                f"index folder {self.path}", got="a second writer", expected="one at a time", hint="Wait for the other's commit."
            ) from None
        try:
            newest = _read_manifest(self.path) == self._manifest
        except FileFormatError:
            os.close(descriptor)
            raise
        if not newest:
            os.close(descriptor)
            raise InputError(
                f"index folder {self.path}", got="a newer commit than the one opened", expected="the newest", hint="Open it again."
            )
        self._lock = descriptor

    def unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    __del__ = unlock

    def new_file(self, ending: str = "segment") -> Path:
        """A name that no commit has used."""
        self._made += 1
        return self.path / f"{self._manifest['generation'] + 1:08d}-{self._made}.{ending}"

    def spill(self, member: AnyMember, settings: dict[str, Any]) -> Any:
        """The same member, mapped from a new file instead of in memory."""
        path = self.new_file()
        self.kind.write(path, member, settings)
        return self.kind.read(path, name=path.name)[0]

    def commit(self, parts: Sequence[AnyMember], settings: dict[str, Any]) -> list[Any]:
        """Writes what is not in files yet, then the manifest. Returns the members as they lie in the folder now."""
        with self.attempt():
            out: list[Any] = list(parts)
            while (run := to_merge([m.n_live for m in out], [m.n_rows for m in out])) is not None:
                out[run] = [self.kind.merge(out[run], self.new_file(), settings)]
            out = [self._on_disk(member, settings) for member in out]
            entries = [{"file": member.file, "dead": member.dead_file} for member in out]
            generation = self._manifest["generation"] + 1
            manifest = {"made": self._manifest["made"], "generation": generation, "settings": settings, "segments": entries}
            self._write_manifest(manifest)
            self._manifest, self._made = manifest, 0
            self._remove_others(entries)
        self.unlock()  # not after a failure: what is not committed lies in files that another writer would take for its own
        return out

    def rollback(self) -> list[Any]:
        """The committed members again. Removes what was made since, when this is the writer, and lets another one in."""
        out = self.members()
        if self._lock >= 0:
            self._remove_others(self._manifest["segments"])
            self._made = 0
            self.unlock()
        return out

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """The writer's work. When it fails, its files go, but for those that a manifest names by then, and the lock, if it was free."""
        was_locked = self._lock >= 0
        self.lock()
        made, generation = self._made, self._manifest["generation"]
        try:
            yield
        except BaseException:
            with contextlib.suppress(FileFormatError):
                named = {name for entry in _read_manifest(self.path)["segments"] for name in entry.values()}
                for number in range(made + 1, self._made + 1 if self._manifest["generation"] == generation else 0):
                    for ending in ("segment", "deleted"):
                        name = f"{generation + 1:08d}-{number}.{ending}"
                        if name not in named:
                            (self.path / name).unlink(missing_ok=True)
            if not was_locked:
                self.unlock()
            raise

    def _on_disk(self, member: AnyMember, settings: dict[str, Any]) -> Any:
        if member.file is None and member.dead is not None:
            return self.kind.merge([member], self.new_file(), settings)
        if member.file is None:
            return self.spill(member, settings)
        if member.dead is None or member.dead_file is not None:
            return member
        path = self.new_file("deleted")
        self.kind.write_dead(path, member)
        return replace(member, dead_file=path.name)

    def _write_manifest(self, content: Mapping[str, Any]) -> None:
        body = {"format": FORMAT, **content}
        text = json.dumps({**body, "crc32": _crc(body)}, indent=1)
        temporary = self.path / f".{MANIFEST}.{os.getpid()}.tmp"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / MANIFEST)
        finally:
            temporary.unlink(missing_ok=True)  # it is there only if something went wrong
        sync_folder(self.path)

    def _remove_others(self, entries: Sequence[Mapping[str, Any]]) -> None:
        wanted = {name for entry in entries for name in entry.values()}
        for file in self.path.iterdir():
            if _OURS.fullmatch(file.name) and file.name not in wanted:
                file.unlink(missing_ok=True)


def _left(path: Path) -> list[Path] | None:
    """What a crash may have left of `create`, before there was a manifest: nothing in most cases. None for anything else that is there."""
    if not path.is_dir():
        return None if path.exists() else []
    found = list(path.iterdir())
    try:
        ours = all(_TEMPORARY.fullmatch(file.name) or (file.name == "codec" and kind_of(file) == "token-codec") for file in found)
    except FileFormatError:
        return None
    return found if ours else None


def _crc(body: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text)
        body = {key: value for key, value in content.items() if key != "crc32"}
        # As it was written, to the byte: JSON has many spellings of one content, and a changed byte is a damaged file.
        if content["crc32"] != _crc(body) or text != json.dumps({**body, "crc32": content["crc32"]}, indent=1):
            raise ValueError("its checksum is wrong")
        names = [name for entry in body["segments"] for name in (entry["file"], *([] if entry["dead"] is None else [entry["dead"]]))]
        right = all((found := _OURS.fullmatch(name)) and found[1] for name in names) and len(set(names)) == len(names)
        typed = all(isinstance(body[key], kind) for key, kind in (("generation", int), ("settings", dict), ("made", str)))
        if body["format"] == FORMAT and not (right and typed):
            raise ValueError("its entries are of the wrong kind")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileFormatError(str(file), got=f"no manifest of an index ({error})", expected="an index folder as it was written") from error
    if body.pop("format", None) != FORMAT:
        raise FileFormatError(str(file), got="another format", expected=f"format {FORMAT}", hint="Build the index again.")
    return body


def to_merge(live: Sequence[int], rows: Sequence[int] | None = None) -> slice | None:
    """Neighbours that should become one, or None: one of which half is deleted; one of a higher tier and those in front of it; TIER or
    more of one tier.

    Neighbours only, so that documents keep their order. What is left has tiers that never rise, less than TIER segments in each; every
    document takes part in a number of merges that grows with the logarithm of the index' size.
    """
    if rows is not None:
        for i, (n, total) in enumerate(zip(live, rows)):
            if 2 * n < total:
                return slice(i, i + 1)
    tiers = [int(math.log(max(n, 1), TIER)) for n in live]
    for i, (tier, following) in enumerate(pairwise(tiers)):
        if tier < following:
            start = i
            while start > 0 and tiers[start - 1] < following:
                start -= 1
            return slice(start, i + 2)
    start = 0
    for _, group in groupby(tiers):
        n = len(list(group))
        if n >= TIER:
            return slice(start, start + n)
        start += n
    return None


def content_of(path: Path) -> str:
    """Hex digits that tell the content of an index from another's: of a file, or of the commit of a folder. Raises FileFormatError."""
    if not path.is_dir():
        return content_of_file(path)
    told = json.dumps(_read_manifest(path), sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def parts_of(path: Path, kind: Kind, *, verify: bool, in_memory: bool = False) -> tuple[list[Any], dict[str, Any], Folder | None]:
    """Members, settings and, for a folder, the folder of the index at a path."""
    if path.is_dir():
        folder = Folder.open(path, kind)
        return folder.members(in_memory=in_memory, verify=verify), folder.settings, folder
    member, settings = kind.read(path, verify=verify, in_memory=in_memory)
    return [member], settings, None
