"""Models over a wire as victims: the Open Inference Protocol v2, or any JSON service by a template. Every query is an expense.

**What is counted.** A row is *bought* when the bytes of its request leave. It is taken back where the server refuses to answer:
408, 429, 503 (tried again, after Retry-After where there is one), 3xx and the other 4xx. It stays bought, and is counted as `lost`
too, where the answer does not arrive or cannot be used: a timeout, a broken connection, 502 and 504 (tried again, and bought
again), 500 and malformed answers. So `bought` is never less than what the server has answered, and equal to it where nothing is lost.

**What is kept.** Each answer is written down before it is used, under the SHA-256 of the row as it is sent, the address and how
the answer is read. A row that is kept is never bought again, whoever died in between; without a `cache` it is kept until the
process ends. A `Meter` still counts each query of an attack, whether it was bought or kept.
"""

import copy
import hashlib
import json
import re
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import BudgetError, HauberkError, ModelError, SettingError
from hauberk.threat import Access
from hauberk.victims.answers import Answers, Output, as_tensor
from hauberk.victims.fingerprint import digest
from hauberk.victims.json_template import JsonTemplate
from hauberk.victims.ledger import Ledger, Purchase
from hauberk.victims.open_inference import OpenInference
from hauberk.victims.preprocess import Normalisation
from hauberk.victims.transport import Transport, check_url
from hauberk.victims.victim import unlimited
from hauberk.victims.visible import filled, narrowed
from hauberk.victims.wire import checked

__all__ = ["Endpoint", "HttpVictim"]


@dataclass(frozen=True)
class Endpoint:
    """The address of a model over a wire."""

    url: str


@final
class HttpVictim:
    """A model that answers over HTTP with scores or labels. What is counted and kept is said at the top of this module.

    Args:
        url: `http://HOST:PORT/v2/models/NAME`, or with a body any address. `$NAME` in it is read from the environment.
        bounds, normalisation, output, dtype, classes, name: see `hauberk.victims.wrap`.
        settings: see `hauberk.victims.wire.Wire`.

    Attributes:
        cached: rows answered from the cache by this object.

    Raises:
        ModelError: the server cannot be reached, or its model is none that can be attacked.
        SettingError: a setting that means nothing.
        RunError: the cache cannot be used.
    """

    forwards_per_query = 1

    def __init__(
        self,
        url: str,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        normalisation: Normalisation | None = None,
        output: Output = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        classes: int | None = None,
        name: str | None = None,
        notes: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        given = checked(settings)
        device = torch.device("cpu") if device is None else device
        if device.type != "cpu":
            raise SettingError(f"a model over HTTP answers on the CPU, got device={str(device)!r}; leave device out")
        parts = check_url(url)
        path = parts.path.rstrip("/")
        self.bounds, self.device = bounds, device
        self._normalisation = normalisation or Normalisation.of(None, None, bounds)
        self._body, self._batch, self._concurrency = given["body"], given["batch"], given["concurrency"]
        self.budget, self.price = given["budget"], given["price"]
        self._transport = Transport(
            url, **{key: given[key] for key in ("headers", "timeout", "retries", "backoff", "rate")}
        )
        query = f"?{parts.query}" if parts.query else ""
        codec: OpenInference | JsonTemplate
        if self._body is None:
            path = path.removesuffix("/infer")
            if not re.fullmatch(r".*/v2/models/[^/]+(/versions/[^/]+)?", path):
                raise ModelError(
                    f"{url!r} is no address of the Open Inference Protocol, http://HOST:PORT/v2/models/NAME; for another service "
                    "give body and answer (--body, --answer)"
                )
            self.name = name or path.split("/v2/models/")[1].split("/")[0]
            codec = OpenInference(self.name, self._transport.exchange("GET", path + query, None, self.name))
            path += "/infer"
        else:
            self.name = name or parts.hostname or "http"
            codec = JsonTemplate(self.name, self._body, given["answer"], bounds)
        self._codec, self._target = codec, (path or "/") + query
        self.dtype = dtype or (torch.float64 if codec.dtype == np.float64 else torch.float32)
        self._notes = [*notes, *self._normalisation.notes, *codec.notes]
        self._answers = Answers(self.name, output, classes, self.dtype, device)
        if output is None and self._answers.kind is None and getattr(codec, "answers_labels", False):
            self._answers.kind = "labels"
            self._notes.append(
                "The server says that it answers one whole number per example: they are read as class labels."
            )
        self._names = {text: number for number, text in enumerate(given["class_names"] or ())}
        self._narrow = (given["top_k"], given["rounding"])
        # the address as typed: variables of the environment are not resolved in it
        self._endpoint = f"{parts.scheme}://{parts.netloc}{self._target}"
        self._spec = digest("http", self._endpoint, codec.description, list(self._names), output).encode()
        self._digest = digest(
            "http", self._spec, bounds, self._normalisation.description, str(self.dtype), classes, self._narrow
        )
        kept = given["cache"]
        self._ledger = Ledger(
            Path(kept).expanduser() if isinstance(kept, str | Path) else None, self._endpoint, keep=kept is not False
        )
        if self.keeps:
            self._notes.append(
                "The model is asked over HTTP and each answer is kept and used again: randomness in it, and a change of the model "
                "behind the address, cannot be seen; cache=False (--no-cache) asks anew each time."
            )
        if self._ledger.bought:
            self._notes.append(
                f"{self._ledger.bought} queries of this address were bought before, as {self._ledger.path} says."
            )
        self.channels = codec.channels
        self.cached = 0
        self._replayed = 0 if self._ledger.keep else None

    @property
    def access(self) -> Access:
        """Scores, until the server has answered labels."""
        return Access.LABELS if self._answers.kind == "labels" else Access.SCORES

    @property
    def classes(self) -> int | None:
        return self._answers.classes

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._notes, *self._answers.notes)

    @property
    def bought(self) -> int:
        """Rows bought of this address, ever, by all who share the cache; those that may have been lost are among them."""
        return self._ledger.bought

    @property
    def bought_before(self) -> int:
        """Those that were bought before this object was made."""
        return self._ledger.bought_before

    @property
    def lost(self) -> int:
        """Of the rows bought, those without a usable answer."""
        return self._ledger.lost

    @property
    def keeps(self) -> bool:
        """Answers are kept and used again."""
        return self._ledger.keep

    @property
    def purse(self) -> int | None:
        """What is left of `budget`; until this object buys anything, what was left when the answers that it has used were bought. So a
        run that is begun again asks what it asked before."""
        if self.budget is None:
            return None
        return max(self.budget - (self.bought if self._replayed is None else self._replayed), 0)

    @property
    def spent(self) -> float:
        """What the rows bought have cost, ever."""
        return self.bought * self.price

    @property
    def requests(self) -> int:
        """Requests sent by this object, those tried again and the one for the metadata among them."""
        return self._transport.requests

    @property
    def description(self) -> dict[str, Any]:
        output = self._answers.output
        return {
            "kind": "http",
            "url": self._endpoint,
            **self._codec.description,
            "bounds": list(self.bounds),
            **self._normalisation.description,
            "output": getattr(output, "__qualname__", repr(output)) if callable(output) else output,
            "top_k": self._narrow[0],
            "rounding": self._narrow[1],
            "answers": self._answers.kind,
            "classes": self.classes,
        }

    def fingerprint(self) -> str:
        """SHA-256 in hex over the address and how it is asked and read; the weights behind it cannot be seen."""
        return self._digest

    def left(self, rows: Rows) -> PerExample:
        """(B,) the purse, shared out evenly among the examples of the rows; where no answers are kept, one for each is held back, which
        the judge buys anew."""
        purse = self.purse
        if purse is None or not len(rows):
            return unlimited(rows)
        examples, place = rows.unique(return_inverse=True)
        each, more = divmod(max(purse - len(examples) * (not self._ledger.keep), 0), len(examples))
        return each + (place < more).to(torch.int64)

    def probe(self, x: Batch) -> None:
        """Ask about the first example, unless anything was asked already; bought as any other row.

        Raises:
            ModelError: the server does not answer as a classifier.
        """
        if not self._answers.settled:
            self.labels(x[:1], torch.zeros(1, dtype=torch.int64))

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) predicted classes."""
        return self._answers.labels(self._ask(x), len(x))

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) scores.

        Raises:
            AccessError: the server answers labels only.
            ModelError: it gives no answer, or none that can be read.
            BudgetError: `budget` does not suffice; nothing was spent on these rows.
        """
        return self._answers.logits(self._ask(x), len(x))

    def again(self) -> "HttpVictim":
        """The same model, whose first answers are not taken for what it answers now: what is asked through it is bought once more."""
        other = copy.copy(self)
        other._spec = self._spec + b"again"
        return other

    def close(self) -> None:
        """Hang up and close the cache."""
        self._transport.close()
        self._ledger.close()

    def _ask(self, x: Batch) -> torch.Tensor:
        if not len(x):
            return torch.zeros(
                0, self.classes or 1, dtype=torch.int64 if self._answers.kind == "labels" else self.dtype
            )
        sent = self._codec.prepared(self._normalisation(x.detach()).cpu().numpy())
        head = self._spec + f"{sent.dtype.str}{sent.shape[1:]}".encode()
        keys = [hashlib.sha256(head + row.tobytes()).digest() for row in sent]
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        keeps = self._ledger.keep
        kept = self._ledger.find(list(first))
        found: dict[Any, str] = {key: answer for key, (answer, _) in kept.items()}
        wanted = [number for number, key in enumerate(keys) if key not in found and (not keeps or first[key] == number)]
        if wanted:
            self._replayed = None
            self._buy(sent, keys, wanted, found)
        elif self._replayed is not None:
            self._replayed = max(self._replayed, *(bought for _, bought in kept.values()))
        self.cached += len(x) - len(wanted)
        rows = [json.loads(found[key]) for key in (keys if keeps else range(len(x)))]
        widths = {len(row) if isinstance(row, list) else 0 for row in rows}
        if len(widths) > 1:
            raise ModelError(
                f"{self.name!r} answers {' and '.join(map(str, sorted(widths)))} scores to examples of one batch"
            )
        answer = as_tensor(self._narrowed(np.asarray(rows)))
        if not self._answers.settled:
            self._answers.settle(answer, len(x))
        return answer

    def _narrowed(self, array: Any) -> Any:
        top_k, rounding = self._narrow
        made = narrowed(self.name, array, top_k, rounding)
        if made is not array and made.ndim == 2 and self._answers.kind == "probabilities":
            made = made / made.sum(axis=1, keepdims=True).clip(1e-12)  # what was rounded or filled sums to 1 only about
        return made

    def _buy(self, sent: Any, keys: list[bytes], wanted: list[int], found: dict[Any, str]) -> None:
        """Buy the answers to these rows of `sent` and put them into `found`: by key, or where none are kept by number."""
        what = f"{self.name!r} at {self._endpoint}"
        if self.budget is not None and (left := self.budget - self.bought) < len(wanted):
            raise BudgetError(
                f"{what} may be asked {self.budget} queries in all, {max(left, 0)} of them are left and {len(wanted)} are needed; "
                f"raise budget (--budget) and begin again{self._ledger.hint}"
            )
        size = 1 if self._codec.single else self._batch
        pieces = [wanted[start : start + size] for start in range(0, len(wanted), size)]

        def one(piece: list[int]) -> None:
            bill = Purchase(self._ledger, len(piece), self.budget, what)
            document = self._transport.exchange("POST", self._target, self._codec.encode(sent[piece]), self.name, bill)
            texts = self._texts(document, len(piece))
            self._ledger.answer(len(piece), {keys[number]: text for number, text in zip(piece, texts, strict=True)})
            for number, text in zip(piece, texts, strict=True):
                found[keys[number] if self._ledger.keep else number] = text

        if self._concurrency == 1 or len(pieces) == 1:
            for piece in pieces:
                one(piece)
            return
        pool = ThreadPoolExecutor(min(self._concurrency, len(pieces)), "hauberk-http")
        try:
            jobs = [pool.submit(one, piece) for piece in pieces]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        finally:  # what is on its way arrives and is kept, what has not begun does not begin
            pool.shutdown(wait=True, cancel_futures=True)

    def _texts(self, document: Any, rows: int) -> list[str]:
        """The answer to each row, as JSON.

        Raises:
            ModelError: it cannot be read as scores or labels.
        """
        raw = self._codec.decode(document, rows)
        output, kind = self._answers.output, self._answers.kind
        if isinstance(raw, dict) and set(raw) == {"classes", "scores"} and (output is None or kind is not None):
            if self.classes is None:
                raise ModelError(
                    f"{self.name!r} answers the best classes only; say how many there are with classes (--classes)"
                )
            raw = filled(self.name, self._numbered(raw["classes"]), raw["scores"], self.classes)
        elif isinstance(raw, dict):
            raw = {key: self._numbered(value) for key, value in raw.items()}
            if len(raw) == 1 and (output is None or kind is not None):
                raw = next(iter(raw.values()))
        else:
            raw = self._numbered(raw)
        try:
            value = self._answers.pick(raw).detach()
        except HauberkError:
            raise
        except Exception as error:  # whatever an answer can be made of
            raise ModelError(
                f"{self.name!r} answers what cannot be read: {error}; choose the scores with output="
            ) from error
        shape = tuple(value.shape)
        if value.ndim not in (1, 2) or len(value) != rows or (value.ndim == 2 and not shape[1]) or value.is_complex():
            raise ModelError(
                f"{self.name!r} answers shape {shape} to {rows} example{'s' * (rows != 1)}, expected one row of scores for each, "
                f"({rows}, classes), or ({rows},) labels"
            )
        if value.dtype == torch.bool:
            raise ModelError(f"{self.name!r} answers truth values, expected scores or labels")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(
                f"{self.name!r} answers NaN or infinity, expected finite scores; look for overflow in the model"
            )
        count = self.classes
        if count is not None and value.ndim == 2 and shape[1] not in (1, count):
            told = (
                f"answered {count} classes before" if self._answers.settled else f"was declared to have {count} classes"
            )
            raise ModelError(f"{self.name!r} {told}, and now answers shape {shape}")
        labels = kind in (None, "labels") and not value.is_floating_point() and (value.ndim == 1 or shape[1] == 1)
        if labels:  # what is no class is refused before it is kept for ever
            odd = value[(value < 0) | (value >= (2**31 if count is None else count))]
            if len(odd):
                most = "0, 1, ..." if count is None else f"0 .. {count - 1}"
                raise ModelError(f"{self.name!r} answers the label {int(odd[0])}, expected {most}")
        return [json.dumps(row, separators=(",", ":")) for row in value.tolist()]

    def _numbered(self, array: Any) -> Any:
        """Class names as numbers, anything else as it is."""
        if getattr(array, "dtype", np.dtype(float)).kind != "U":
            return array
        unknown = next((text for text in array.reshape(-1).tolist() if text not in self._names), None)
        if unknown is not None:
            known = f"known are {', '.join(list(self._names)[:5])}" if self._names else "none are given"
            raise ModelError(
                f"{self.name!r} answers {unknown[:60]!r}, expected scores or a name of class_names (--class-names): {known}"
            )
        return np.asarray([self._names[text] for text in array.reshape(-1).tolist()], np.int64).reshape(array.shape)
