"""How much of a run is kept in its folder, told before it is resumed and after it was interrupted."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hauberk.data import Source
from hauberk.errors import RunError
from hauberk.evidence import Manifest
from hauberk.threat import ThreatModel
from hauberk.victims import Victim

__all__ = ["Kept"]


@dataclass(frozen=True)
class Kept:
    """A look at the run folder from outside, without its lock. What it says goes to people; what is computed is decided by
    `RunFolder.open`, which verifies every chunk.

    Args:
        out: the run folder, or None for a run in memory.
        victim, source, threat, suite, seed, batch_size: of the evaluation; the run of another one is as good as none.
    """

    out: Path | None
    victim: Victim
    source: Source
    threat: ThreatModel
    suite: str
    seed: int
    batch_size: int

    def count(self) -> int:
        """How many examples are in chunks that are done."""
        if self.out is None or not self._is_ours(self.out):
            return 0
        n, size = len(self.source), self.batch_size
        names = [entry.name for entry in (self.out / "chunks").glob("[0-9]*")]
        return sum(max(0, min(size, n - size * int(name))) for name in names if name.isdecimal())

    def is_finished(self) -> bool:
        """Every example is kept and the result is written."""
        if self.out is None or not all((self.out / name).is_file() for name in ("result.json", "rows.parquet")):
            return False
        return self.count() == len(self.source)

    def sentence(self) -> str:
        """What remains of an interrupted run, and how to go on."""
        if self.out is None:
            return "nothing was kept, as no --out DIR was given"
        if count := self.count():
            return f"kept {count} of {len(self.source)}; the same command goes on from there"
        return f"nothing was kept yet: a chunk is --batch-size examples, {min(self.batch_size, len(self.source))} here"

    def _is_ours(self, out: Path) -> bool:
        """The folder holds this evaluation, as far as can be told without reading the data once more."""
        with suppress(OSError, RunError):
            found = Manifest.from_json((out / "manifest.json").read_bytes())
            return found.suite.partition("[")[0] == self.suite and (
                (found.model_fingerprint, found.data_name, found.threat, found.seed, found.n, found.batch_size)
                == (
                    self.victim.fingerprint(),
                    self.source.name,
                    str(self.threat),
                    self.seed,
                    len(self.source),
                    self.batch_size,
                )
            )
        return False
