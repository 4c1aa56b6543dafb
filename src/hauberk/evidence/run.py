"""A run folder: append-only evidence of one evaluation, whole after a kill at any instant.

    manifest.json                       what is evaluated, written first
    chunks/00000/rows.parquet           one folder a chunk, renamed into place when all its files are on the disk
    chunks/00000/adversarials.safetensors
    chunks/00000/ledger.json            counts and seconds, the SHA-256 of the other two, a seal over itself
    rows.parquet                        all chunks in order, written at the end; the same bytes for the same rows
    result.json                         the JSON contract
    .lock                               held while a process writes

Files become visible by rename only, after fsync; names that begin with `.tmp-` are what a kill left and are thrown away.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from hauberk.errors import RunError
from hauberk.evidence.disk import (
    TEMPORARY,
    read_bytes,
    replace_file,
    replacing,
    sha256,
    speaking,
    sync_folder,
    write_file,
)
from hauberk.evidence.fingerprint import setting_fingerprint
from hauberk.evidence.finished import RESULT_SCHEMA, FinishedRun, check_chunk
from hauberk.evidence.lock import LOCK_NAME, FolderLock
from hauberk.evidence.manifest import Manifest
from hauberk.evidence.plain import plain, pretty
from hauberk.evidence.table import read_rows, write_rows

__all__ = ["RunFolder"]

_MANIFEST, _CHUNKS, _ROWS, _RESULT = "manifest.json", "chunks", "rows.parquet", "result.json"
_LEDGER, _ADVERSARIALS = "ledger.json", "adversarials.safetensors"


class RunFolder:
    """The evidence of one evaluation on disk. Made by `RunFolder.open`; a context manager that holds the folder's lock."""

    def __init__(
        self, path: Path, manifest: Manifest, lock: FolderLock, done: set[int], drift: tuple[str, ...]
    ) -> None:
        self.path, self.manifest, self.done, self.drift = path, manifest, done, drift
        self._lock = lock

    @classmethod
    def open(cls, path: str | os.PathLike[str], manifest: Manifest) -> Self:
        """Begin a run in `path`, or go on with the one that is there.

        Every chunk found is verified against its ledger; what a kill left half written is removed.

        Raises:
            RunError: the folder holds another evaluation (each difference is named), other files, or a damaged run; another
                process holds it; or the disk refuses.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunError(f"expected a folder for the run at {path}, got a file; choose another --out")
        with speaking(f"make the run folder {path}"):
            path.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(path)
            lock = FolderLock(path)
        try:
            with speaking(f"write in the run folder {path}"):
                known = _adopt(path, manifest)
                _sweep(path)
                (path / _CHUNKS).mkdir(exist_ok=True)
                sync_folder(path)
            done = {
                index for index, folder in _chunk_folders(path) if _verified(path, folder, index, known, thorough=True)
            }
        except BaseException:
            lock.release()
            raise
        return cls(path, known, lock, done, tuple(known.drift(manifest)))

    @property
    def is_finished(self) -> bool:
        """A result and a table have been written."""
        return (self.path / _RESULT).is_file() and (self.path / _ROWS).is_file()

    def write_chunk(self, index: int, rows: pa.Table, tensors: dict[str, Tensor], ledger: dict[str, Any]) -> None:
        """Put the evidence of one chunk on the disk, whole or not at all.

        Args:
            index: of the chunk, from 0.
            rows: from `rows_table`.
            tensors: see `FinishedRun.adversarials`.
            ledger: counts; to it are added `chunk`, `rows`, `evaluation` (whose chunk it is), `sha256` and `seal`.

        Raises:
            InputError: the chunk was written before, or its rows or tensors are not those of a chunk.
            RunError: the disk refuses.
        """
        check_chunk(index, self.done, rows, tensors)
        place = self.path / _CHUNKS / f"{index:05d}"
        temporary = place.with_name(f"{TEMPORARY}{place.name}")
        # cloned: two names of one tensor are stored as two
        content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with speaking(f"write chunk {index} of the run folder {self.path}"):
            try:
                temporary.mkdir()
                sums = {_ADVERSARIALS: write_file(temporary / _ADVERSARIALS, safetensors.torch.save(content))}
                with (sink := pa.BufferOutputStream()):
                    write_rows(sink, [rows])
                sums[_ROWS] = write_file(temporary / _ROWS, sink.getvalue().to_pybytes())
                entry = plain(ledger) | {
                    "chunk": index,
                    "rows": rows.num_rows,
                    "evaluation": self.manifest.fingerprint(),
                    "sha256": sums,
                }
                write_file(temporary / _LEDGER, pretty(entry | {"seal": setting_fingerprint(entry)}))
                sync_folder(temporary)
                temporary.rename(place)
                sync_folder(place.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        self.done.add(index)

    def ledgers(self) -> list[dict[str, Any]]:
        """The ledgers of the chunks done, in order."""
        return [_verified(self.path, folder, index, self.manifest) for index, folder in _chunk_folders(self.path)]

    def finish(self, result: dict[str, Any]) -> None:
        """Join the rows of all chunks into rows.parquet, in bounded memory, and write result.json.

        Raises:
            RunError: a chunk is missing or damaged, or the disk refuses.
        """
        folders = _chunk_folders(self.path)
        _refuse_gaps(self.path, folders)
        tables = (
            read_rows(folder / _ROWS, f"{_ROWS} in {_shown(self.path, folder)}", _cure(self.path, folder))
            for _, folder in folders
        )
        with speaking(f"finish the run folder {self.path}"):
            with replacing(self.path / _ROWS) as file:
                write_rows(file, tables)
            replace_file(self.path / _RESULT, pretty(result))

    def finished(self) -> FinishedRun:
        """The finished run, read from the disk."""
        return self.read(self.path)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> FinishedRun:
        """Read a finished run; needs no right to write.

        Raises:
            RunError: no such folder, not a run, not finished, of an unknown schema, or damaged.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunError(
                f"expected a run folder at {path}, got {'a file' if path.exists() else 'nothing'}; check the path"
            )
        if not (path / _MANIFEST).is_file():
            raise RunError(
                f"expected a run folder at {path}, got one without {_MANIFEST}; give the folder that --out named"
            )
        manifest = Manifest.from_json(
            read_bytes(path / _MANIFEST, f"{path}/{_MANIFEST}", "check the path"), f"{path}/{_MANIFEST}"
        )
        again = "give the same command again to write it anew from the chunks"
        if not (path / _RESULT).is_file():
            raise RunError(
                f"expected a finished run in {path}, got one without {_RESULT}; give the same command again to finish it"
            )
        result = _json(read_bytes(path / _RESULT, f"{path}/{_RESULT}", again), f"{path}/{_RESULT}", again)
        if result.get("schema") != RESULT_SCHEMA:
            raise RunError(
                f"expected schema {RESULT_SCHEMA} in {path}/{_RESULT}, got {result.get('schema')}; "
                "use the version of hauberk that wrote it"
            )
        rows = read_rows(path / _ROWS, f"{path}/{_ROWS}", again)
        folders = _chunk_folders(path)
        _refuse_gaps(path, folders)
        ledgers = [_verified(path, folder, index, manifest) for index, folder in folders]
        if (count := sum(ledger["rows"] for ledger in ledgers)) != rows.num_rows:
            raise RunError(f"expected the {count} rows of its chunks in {path}/{_ROWS}, got {rows.num_rows}; {again}")
        return FinishedRun(result, rows, lambda: _adversarials(path, folders, manifest), manifest, ledgers, path)

    def close(self) -> None:
        """Let other processes into the folder."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refuse_foreign(path: Path) -> None:
    names = sorted(entry.name for entry in path.iterdir())
    ours = [name for name in names if name == LOCK_NAME or name.startswith(f"{TEMPORARY}{_MANIFEST}")]
    if names != ours and _MANIFEST not in names:
        foreign = [name for name in names if name not in ours]
        raise RunError(
            f"expected an empty folder or a run at {path}, got one that holds {', '.join(foreign[:3])}"
            f"{' ...' if len(foreign) > 3 else ''} and no {_MANIFEST}; choose another --out"
        )


def _adopt(path: Path, manifest: Manifest) -> Manifest:
    """The manifest of the folder: the one that is there, if it agrees, or this one, now written."""
    place = path / _MANIFEST
    if not place.exists():
        replace_file(place, manifest.to_json())
        return manifest
    known = Manifest.from_json(read_bytes(place, str(place), "choose another --out"), str(place))
    if differences := known.differences(manifest):
        raise RunError(
            f"the run folder {path} holds another evaluation: {'; '.join(differences)}; "
            "choose another --out, or give the settings it was begun with"
        )
    return known


def _sweep(path: Path) -> None:
    """Remove what a kill left half written; the lock is held, so nobody else is writing it."""
    for left in (*path.glob(f"{TEMPORARY}*"), *(path / _CHUNKS).glob(f"{TEMPORARY}*")):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


def _chunk_folders(path: Path) -> list[tuple[int, Path]]:
    parent = path / _CHUNKS
    if not parent.exists():
        return []
    with speaking(f"read the run folder {path}"):
        return sorted(
            (int(folder.name), folder) for folder in parent.iterdir() if folder.name.isdecimal() and folder.is_dir()
        )


def _shown(path: Path, folder: Path) -> str:
    return f"{_CHUNKS}/{folder.name} of {path}"


def _cure(path: Path, folder: Path) -> str:
    return f"delete {path / _CHUNKS / folder.name} and give the same command again, which computes that chunk anew"


def _refuse_gaps(path: Path, folders: list[tuple[int, Path]]) -> None:
    for expected, (index, _) in enumerate(folders):
        if index != expected:
            raise RunError(
                f"expected the chunks of {path} to follow each other, got no {_CHUNKS}/{expected:05d}; "
                "give the same command again, which computes it"
            )


def _json(text: bytes, shown: str, cure: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunError(f"expected JSON in {shown}, got: {error}; {cure}") from error
    if not isinstance(value, dict):
        raise RunError(f"expected a JSON object in {shown}, got {type(value).__name__}; {cure}")
    return value


def _verified(path: Path, folder: Path, index: int, manifest: Manifest, *, thorough: bool = False) -> dict[str, Any]:
    """The ledger of a chunk, its seal verified; `thorough` verifies the other files too."""
    shown, cure = _shown(path, folder), _cure(path, folder)
    ledger = _json(read_bytes(folder / _LEDGER, f"{_LEDGER} in {shown}", cure), f"{_LEDGER} in {shown}", cure)
    entry = {key: value for key, value in ledger.items() if key != "seal"}
    if ledger.get("seal") != setting_fingerprint(entry):
        raise RunError(f"expected {_LEDGER} in {shown} as it was written, got one altered since; {cure}")
    if (ledger["chunk"], ledger["evaluation"]) != (index, manifest.fingerprint()):
        raise RunError(
            f"expected chunk {index} of this evaluation in {shown}, got chunk {ledger['chunk']} of another run; {cure}"
        )
    for name, expected in ledger["sha256"].items() if thorough else ():
        _verify_file(folder / name, expected, f"{name} in {shown}", cure)
    return ledger


def _verify_file(file: Path, expected: str, shown: str, cure: str) -> None:
    if not file.is_file():
        raise RunError(f"expected a file {shown}, got none; {cure}")
    with speaking(f"read {shown}"):
        found = sha256(file)
    if found != expected:
        raise RunError(f"expected {shown} as it was written, got one cut short or altered since; {cure}")


def _adversarials(path: Path, folders: list[tuple[int, Path]], manifest: Manifest) -> Iterator[dict[str, Tensor]]:
    for index, folder in folders:
        ledger, shown, cure = _verified(path, folder, index, manifest), _shown(path, folder), _cure(path, folder)
        _verify_file(folder / _ADVERSARIALS, ledger["sha256"][_ADVERSARIALS], f"{_ADVERSARIALS} in {shown}", cure)
        try:
            tensors = safetensors.torch.load_file(folder / _ADVERSARIALS)
        except (SafetensorError, OSError) as error:
            raise RunError(f"expected tensors in {_ADVERSARIALS} in {shown}, got: {error}; {cure}") from error
        if any(map(len, tensors.values())):
            yield tensors
