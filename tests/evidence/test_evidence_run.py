"""A run folder resumes what is its own, refuses everything else, and reads back what was written."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hauberk.evidence.disk as disk
from hauberk.errors import InputError, RunError
from hauberk.evidence import Manifest, MemoryRun, Run, RunFolder, rows_table, write_rows


@pytest.fixture
def full(tmp_path: Path, manifest: Manifest, chunk_of: Callable[[int], Any], result: dict[str, Any]) -> Path:
    """A finished run of three chunks."""
    with RunFolder.open(tmp_path / "run", manifest) as run:
        for k in range(3):
            run.write_chunk(k, *chunk_of(k))
        run.finish(result)
    return tmp_path / "run"


def refused(path: Path, manifest: Manifest, *words: str) -> None:
    with pytest.raises(RunError) as caught:
        RunFolder.open(path, manifest)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def files(path: Path) -> Iterator[str]:
    return (str(file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file())


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_the_folder_is_laid_out_as_the_contract_says(full: Path) -> None:
    kept = ("adversarials.safetensors", "ledger.json", "rows.parquet")
    chunks = [f"chunks/{k:05d}/{name}" for k in range(3) for name in kept]
    assert list(files(full)) == [".lock", *chunks, "manifest.json", "result.json", "rows.parquet"]


def test_a_finished_run_reads_back(full: Path, manifest: Manifest, chunk_of: Callable[[int], Any], result: Any) -> None:
    run = RunFolder.read(full)
    assert (run.result, run.manifest, run.path) == (result, manifest, full)
    assert run.rows["example"].to_pylist() == [k // 2 for k in range(24)]
    assert [ledger["attacks"] for ledger in run.ledgers] == [chunk_of(k)[2]["attacks"] for k in range(3)]
    assert [(ledger["chunk"], ledger["rows"]) for ledger in run.ledgers] == [(0, 8), (1, 8), (2, 8)]
    for k, tensors in enumerate(run.adversarials()):
        expected = chunk_of(k)[1]
        assert set(tensors) == {"example", "radius", "adversarials", "originals"}
        assert all(
            torch.equal(tensors[name], expected[name]) and tensors[name].dtype == expected[name].dtype
            for name in expected
        )
    assert run.adversarials() is not run.adversarials()


def test_memory_and_folder_give_the_same_evidence(
    full: Path, manifest: Manifest, chunk_of: Callable[[int], Any], result: dict[str, Any]
) -> None:
    with MemoryRun(manifest) as run:
        face: Run = run
        for k in (2, 0, 1):
            face.write_chunk(k, *chunk_of(k))
        assert face.done == {0, 1, 2}
        face.finish(result)
    memory, folder = face.finished(), RunFolder.read(full)
    assert memory.rows.equals(folder.rows)
    assert memory.result == folder.result
    for mine, theirs in zip(memory.adversarials(), folder.adversarials(), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    added = ("evaluation", "sha256", "seal")
    assert memory.ledgers == [{k: v for k, v in ledger.items() if k not in added} for ledger in folder.ledgers]


def test_memory_refuses_to_finish_with_a_gap_or_to_show_what_is_not_there(
    manifest: Manifest, chunk_of: Callable[[int], Any], result: dict[str, Any]
) -> None:
    run = MemoryRun(manifest)
    with pytest.raises(RunError, match="call finish first"):
        run.finished()
    run.write_chunk(1, *chunk_of(1))
    with pytest.raises(RunError, match=r"got none for \[0\]"):
        run.finish(result)


def test_an_evaluation_without_a_broken_example_has_no_adversarials(
    tmp_path: Path, manifest: Manifest, chunk_of: Callable[[int], Any], result: dict[str, Any]
) -> None:
    rows, tensors, ledger = chunk_of(0)
    none = {name: tensor[:0] for name, tensor in tensors.items()}
    with RunFolder.open(tmp_path, manifest) as run:
        run.write_chunk(0, rows, none, ledger)
        run.write_chunk(1, rows.slice(0, 0), {}, ledger)
        run.finish(result)
        assert list(run.finished().adversarials()) == []


def test_a_run_goes_on_where_it_was(
    tmp_path: Path, manifest: Manifest, chunk_of: Callable[[int], Any], full: Path
) -> None:
    with RunFolder.open(tmp_path / "new" / "deep", manifest) as run:
        assert run.done == set()
        run.write_chunk(0, *chunk_of(0))
        run.write_chunk(2, *chunk_of(2))
    with RunFolder.open(tmp_path / "new" / "deep", manifest) as run:
        assert run.done == {0, 2}
        assert not run.is_finished
        run.write_chunk(1, *chunk_of(1))
        run.finish({"schema": "hauberk.evaluation/1"})
        assert run.is_finished
    assert (tmp_path / "new/deep/rows.parquet").read_bytes() == (full / "rows.parquet").read_bytes()


def test_a_finished_run_can_be_opened_and_finished_again(
    full: Path, manifest: Manifest, result: dict[str, Any]
) -> None:
    before = (full / "rows.parquet").read_bytes()
    with RunFolder.open(full, manifest) as run:
        assert run.is_finished
        assert run.done == {0, 1, 2}
        run.finish(result)
    assert (full / "rows.parquet").read_bytes() == before


def test_the_first_provenance_stays_and_drift_is_told(tmp_path: Path, changed: Callable[..., Manifest]) -> None:
    RunFolder.open(tmp_path, changed(provenance={"python": "3.11"})).close()
    with RunFolder.open(tmp_path, changed(provenance={"python": "3.12"})) as run:
        assert run.drift == ("python was 3.11, is 3.12",)
        assert run.manifest.provenance == {"python": "3.11"}


def test_a_changed_evaluation_is_refused_with_every_difference(full: Path, changed: Callable[..., Manifest]) -> None:
    refused(
        full,
        changed(threat="linf:0.1", seed=3, model_fingerprint="e" * 64),
        "threat was linf:0.2,0.3, is linf:0.1",
        "seed was 0, is 3",
        "model was net",
        "choose another --out",
    )


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "chunks").mkdir()
    refused(tmp_path, manifest, "chunks, thesis.tex", "choose another --out")
    assert names(tmp_path) == ["chunks", "thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", manifest, "got a file")
    refused(tmp_path / "file" / "inner", manifest, "cannot make the run folder", "choose a folder")


@pytest.mark.skipif(os.name == "nt" or not Path("/proc").exists(), reason="needs a path that nobody can write to")
def test_a_place_that_cannot_be_written_is_refused(manifest: Manifest) -> None:
    refused(Path("/proc/hauberk/run"), manifest, "cannot make the run folder /proc/hauberk/run")


@pytest.mark.parametrize("damage", ["{", "[]", '{"schema": "hauberk.run/0"}', '{"schema": "hauberk.run/1"}'])
def test_a_damaged_manifest_is_refused(damage: str, full: Path, manifest: Manifest) -> None:
    (full / "manifest.json").write_text(damage)
    refused(full, manifest, "manifest.json", "choose another --out")
    with pytest.raises(RunError, match=r"manifest\.json"):
        RunFolder.read(full)


@pytest.mark.parametrize("name", ["rows.parquet", "adversarials.safetensors", "ledger.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "altered", "empty"])
def test_a_damaged_chunk_is_refused_and_the_cure_works(
    name: str, damage: str, full: Path, manifest: Manifest, chunk_of: Callable[[int], Any]
) -> None:
    file = full / "chunks" / "00001" / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "altered":
        middle = content.index(b'"attempted": 8') + 13 if name == "ledger.json" else len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "short" else b"")
    refused(full, manifest, name, "chunks/00001", "delete", "same command again")
    shutil.rmtree(file.parent)
    with RunFolder.open(full, manifest) as run:
        assert run.done == {0, 2}
        run.write_chunk(1, *chunk_of(1))


def test_a_chunk_of_another_place_or_run_is_refused(
    full: Path, tmp_path: Path, manifest: Manifest, changed: Callable[..., Manifest], chunk_of: Callable[[int], Any]
) -> None:
    with RunFolder.open(tmp_path / "other", changed(seed=5)) as run:
        run.write_chunk(0, *chunk_of(0))
    shutil.copytree(full / "chunks/00001", full / "chunks/00003")
    refused(full, manifest, "chunks/00003", "chunk 1 of another run")
    shutil.rmtree(full / "chunks/00003")
    shutil.rmtree(full / "chunks/00000")
    shutil.copytree(tmp_path / "other/chunks/00000", full / "chunks/00000")
    refused(full, manifest, "chunks/00000", "of another run")


@pytest.mark.parametrize("name", ["chunks/.tmp-00003", ".tmp-rows.parquet", ".tmp-result.json"])
def test_what_a_kill_left_is_removed_in_silence(name: str, full: Path, manifest: Manifest) -> None:
    left = full / name
    if left.parent.name == "chunks":
        left.mkdir()
        (left / "rows.parquet").write_bytes(b"PAR1")
    else:
        left.write_bytes(b"PAR1")
    with RunFolder.open(full, manifest) as run:
        assert run.done == {0, 1, 2}
    assert not left.exists()


def test_a_kill_before_the_manifest_leaves_a_folder_that_opens(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-manifest.json").write_text("{")
    RunFolder.open(tmp_path, manifest).close()
    assert names(tmp_path) == [".lock", "chunks", "manifest.json"]


def test_a_gap_cannot_be_finished_or_read(
    full: Path, tmp_path: Path, manifest: Manifest, chunk_of: Callable[[int], Any], result: dict[str, Any]
) -> None:
    with RunFolder.open(tmp_path / "gap", manifest) as run:
        run.write_chunk(1, *chunk_of(1))
        with pytest.raises(RunError, match="no chunks/00000"):
            run.finish(result)
    assert not (tmp_path / "gap/rows.parquet").exists()
    shutil.rmtree(full / "chunks/00001")
    with pytest.raises(RunError, match="no chunks/00001"):
        RunFolder.read(full)


def test_reading_says_what_is_wrong(
    full: Path, tmp_path: Path, manifest: Manifest, chunk_of: Callable[[int], Any]
) -> None:
    def fails(words: str, path: Path = full) -> None:
        with pytest.raises(RunError, match=words):
            RunFolder.read(path)

    fails("got nothing; check the path", tmp_path / "none")
    fails("got a file; check the path", full / "result.json")
    fails(r"one without manifest\.json", tmp_path)
    RunFolder.open(tmp_path / "begun", manifest).close()
    fails("same command again to finish it", tmp_path / "begun")
    (full / "result.json").write_text('{"schema": "hauberk.evaluation/7"}')
    fails("hauberk.evaluation/7")
    (full / "result.json").write_text("[]")
    fails("expected a JSON object")
    (full / "result.json").write_text('{"schema"')
    fails("expected JSON in")
    (full / "result.json").write_text('{"schema": "hauberk.evaluation/1"}')
    with (full / "rows.parquet").open("wb") as file:
        write_rows(file, [chunk_of(0)[0]])
    fails("expected the 24 rows of its chunks")
    (full / "rows.parquet").unlink()
    fails(r"rows\.parquet, got none")


def test_altered_adversarials_are_seen_when_they_are_read(full: Path) -> None:
    file = full / "chunks/00002/adversarials.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(RunError, match=re.escape("adversarials.safetensors in chunks/00002")):
        list(RunFolder.read(full).adversarials())


def test_evidence_is_only_ever_added(tmp_path: Path, manifest: Manifest, chunk_of: Callable[[int], Any]) -> None:
    rows, tensors, ledger = chunk_of(0)
    with RunFolder.open(tmp_path, manifest) as run:
        run.write_chunk(0, rows, tensors, ledger)
        with pytest.raises(InputError, match="got chunk 0"):
            run.write_chunk(0, rows, tensors, ledger)
        with pytest.raises(InputError, match="got chunk -1"):
            run.write_chunk(-1, rows, tensors, ledger)
        with pytest.raises(InputError, match="use rows_table"):
            run.write_chunk(1, rows.select(["example"]), tensors, ledger)
        with pytest.raises(InputError, match="'radius': 3"):
            run.write_chunk(1, rows, tensors | {"radius": tensors["radius"][:3]}, ledger)
        assert run.done == {0}


def test_shared_strided_and_gradient_tensors_are_stored_by_value(
    tmp_path: Path, manifest: Manifest, chunk_of: Callable[[int], Any], result: dict[str, Any]
) -> None:
    rows, _, ledger = chunk_of(0)
    x = torch.arange(12.0).reshape(2, 2, 3).requires_grad_()
    with RunFolder.open(tmp_path, manifest) as run:
        run.write_chunk(0, rows, {"adversarials": x.transpose(1, 2), "originals": x}, ledger)
        run.finish(result)
        (tensors,) = run.finished().adversarials()
    assert torch.equal(tensors["adversarials"], x.transpose(1, 2))
    assert torch.equal(tensors["originals"], x)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_done(
    tmp_path: Path,
    manifest: Manifest,
    chunk_of: Callable[[int], Any],
    result: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full_disk(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RunFolder.open(tmp_path, manifest) as run:
        run.write_chunk(0, *chunk_of(0))
        with monkeypatch.context() as patch:
            patch.setattr(disk.os, "fsync", full_disk)
            with pytest.raises(RunError, match=r"cannot write chunk 1 .*No space left.*make room"):
                run.write_chunk(1, *chunk_of(1))
            with pytest.raises(RunError, match=r"cannot finish .*No space left"):
                run.finish(result)
        assert run.done == {0}
        assert names(tmp_path) == [".lock", "chunks", "manifest.json"]
        assert names(tmp_path / "chunks") == ["00000"]
        run.write_chunk(1, *chunk_of(1))


def test_results_hold_no_number_that_json_does_not_have(
    tmp_path: Path, manifest: Manifest, chunk_of: Callable[[int], Any], result: dict[str, Any]
) -> None:
    with RunFolder.open(tmp_path, manifest) as run:
        run.write_chunk(0, *chunk_of(0))
        run.finish(result | {"attacks": [{"settings": {"radius": float("inf")}}]})
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text)["attacks"][0]["settings"]["radius"] == "inf"
    assert "Infinity" not in text


def test_many_chunks_keep_their_order_past_the_fifth_digit(
    tmp_path: Path, manifest: Manifest, chunk_of: Callable[[int], Any]
) -> None:
    with RunFolder.open(tmp_path, manifest) as run:
        for k in (100000, 9, 99999):
            run.write_chunk(k, *chunk_of(k))
        assert [ledger["chunk"] for ledger in run.ledgers()] == [9, 99999, 100000]


def test_the_final_table_does_not_depend_on_how_the_rows_were_cut(
    full: Path, tmp_path: Path, changed: Callable[..., Manifest], chunk_of: Callable[[int], Any], result: dict[str, Any]
) -> None:
    rows = RunFolder.read(full).rows
    assert rows_table({name: rows[name].to_pylist() for name in rows.column_names}).equals(rows)
    with RunFolder.open(tmp_path / "one", changed(batch_size=12)) as run:
        run.write_chunk(0, rows, {}, chunk_of(0)[2])
        run.finish(result)
    assert (tmp_path / "one/rows.parquet").read_bytes() == (full / "rows.parquet").read_bytes()
