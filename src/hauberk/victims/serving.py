"""A tiny server of the Open Inference Protocol v2 for any victim: to try attacks over a wire, to test them, to show them.

    GET  /v2/health/live, /v2/health/ready       200
    GET  /v2/models/NAME, /v2/models/NAME/ready  what it takes and answers
    POST /v2/models/NAME/infer                   the answer; a line of the log for each row, written before the answer leaves

It answers with `scores` (n, classes), with a `label` (n) where it shows labels only, or with the `classes` and `scores` (n, k) of the
best k. It is a lab instrument: no encryption, no users, one question computed at a time.
"""

import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import torch

from hauberk.errors import AccessError, HauberkError, ModelError, RunError, SettingError
from hauberk.threat import Access
from hauberk.victims.open_inference import Slot, as_array, tensor_of
from hauberk.victims.visible import best

__all__ = ["ModelServer"]

_LARGEST = 1 << 28  # bytes of a request
_PATIENCE = 5.0  # seconds for answers that are on their way when the server is closed


class ModelServer:
    """Serves one victim. `with ModelServer(victim) as server: ...` serves from a thread until the block ends.

    Args:
        victim: who answers.
        name: in the address; the victim's where None.
        host, port: where to listen; port 0 takes a free one.
        shape: of one example, as the metadata give it; any if None.
        labels_only: show the predicted class and nothing else.
        probabilities: show the softmax of the scores.
        top_k: show the best k classes and their scores only.
        rounding: round scores to so many digits.
        log: a file that gets a line of JSON for each row answered: seconds since 1970, the number of the request, the row in it and the
            SHA-256 of its bytes. It is appended to, and each line is written before the answer leaves.

    Attributes:
        url: the address of the model, as `hauberk.wrap` takes it.
        port: where it listens.
        answered: rows answered.

    Raises:
        SettingError, AccessError: options that mean nothing, or that ask for what the victim does not give.
        RunError: the port is taken, or the log cannot be written.
    """

    def __init__(
        self,
        victim: Any,
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        shape: tuple[int, ...] | None = None,
        labels_only: bool = False,
        probabilities: bool = False,
        top_k: int | None = None,
        rounding: int | None = None,
        log: str | Path | None = None,
    ) -> None:
        if labels_only and (probabilities or top_k is not None or rounding is not None):
            raise SettingError("labels only are shown without probabilities, top k and rounding; choose one of them")
        if (top_k is not None and top_k < 1) or (rounding is not None and rounding < 0):
            raise SettingError(f"top k is at least 1 and rounding at least 0, got {top_k} and {rounding}")
        if shape is not None and (not shape or min(shape) < 1):
            raise SettingError(f"the shape of an example is of whole numbers > 0, got {shape}")
        self.victim, self.name, self.shape = victim, name or str(victim.name), shape
        self._probabilities, self._top_k, self._rounding = probabilities, top_k, rounding
        self._datatype = "FP64" if victim.dtype == torch.float64 else "FP32"
        if shape is not None:  # settles what the victim answers
            middle = torch.full((1, *shape), sum(victim.bounds) / 2, dtype=victim.dtype, device=victim.device)
            victim.probe(middle)
        if victim.access < Access.SCORES and (probabilities or top_k is not None or rounding is not None):
            raise AccessError(f"{victim.name!r} answers labels only; leave out probabilities, top k and rounding")
        self._labels_only = labels_only or victim.access < Access.SCORES
        self.answered, self._requests, self._busy = 0, 0, 0
        self._lock, self._idle = threading.Lock(), threading.Condition()
        try:
            self._log = None if log is None else Path(log).expanduser().open("ab", buffering=0)
        except OSError as error:
            raise RunError(f"the log {log} cannot be written: {error.strerror}; choose another place") from error
        try:
            self._server = _Server((host, port), self)
        except (OSError, OverflowError) as error:
            raise RunError(
                f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}; choose another port, 0 takes a free one"
            ) from error
        self.port: int = self._server.server_address[1]
        shown = "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104  # only compared
        self.url = f"http://{shown}:{self.port}/v2/models/{quote(self.name, safe='')}"
        self._thread: threading.Thread | None = None

    def serve_forever(self) -> None:
        """Answer until `stop` or `close` is called."""
        self._server.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        """Let `serve_forever` return; for another thread than that."""
        self._server.shutdown()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, name="hauberk-server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; answers that are on their way still arrive."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        with self._idle:
            self._idle.wait_for(lambda: not self._busy, _PATIENCE)
        self._server.server_close()
        if self._log is not None:
            self._log.close()

    @property
    def metadata(self) -> dict[str, Any]:
        """What the protocol says of the model."""
        classes = self.victim.classes or -1
        if self._labels_only:
            outputs = [Slot("label", "INT64", (-1,))]
        elif self._top_k is not None:
            k = min(self._top_k, classes) if classes > 0 else self._top_k
            outputs = [Slot("classes", "INT64", (-1, k)), Slot("scores", self._datatype, (-1, k))]
        else:
            outputs = [Slot("scores", self._datatype, (-1, classes))]
        inputs = [Slot("input", self._datatype, (-1, *(self.shape or ())))]
        return {
            "name": self.name,
            "versions": ["1"],
            "platform": "hauberk",
            "inputs": [vars(slot) for slot in inputs],
            "outputs": [vars(slot) for slot in outputs],
        }

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and more headers for a request."""
        steps = [unquote(step) for step in urlsplit(path).path.strip("/").split("/")]
        if steps[:1] != ["v2"]:
            return 404, {"error": f"there is no {path}; the model is at {self.url}"}, {}
        if steps[1:] == ["health", "live"] or steps[1:] == ["health", "ready"]:
            return 200, {steps[2]: True}, {}
        if steps == ["v2"]:
            return 200, {"name": "hauberk", "version": "2", "extensions": []}, {}
        if steps[1] != "models" or len(steps) < 3 or steps[2] != self.name:
            return 404, {"error": f"there is no such model; the one here is at {self.url}"}, {}
        action = "/".join(steps[3:])
        if action == "infer":
            return self._inferred(body) if method == "POST" else (405, {"error": "infer takes POST"}, {})
        if action in ("", "ready") and method == "GET":
            return 200, self.metadata if not action else {"name": self.name, "ready": True}, {}
        return 404, {"error": f"there is no {path}"}, {}

    def _inferred(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return 400, {"error": "the request is no JSON"}, {}
        tensors = document.get("inputs") if isinstance(document, dict) else None
        if not isinstance(tensors, list) or len(tensors) != 1:
            return 400, {"error": "expected a list of inputs with one tensor"}, {}
        try:
            _, array = as_array("the request", tensors[0])
            if array.dtype.kind not in "fiu" or array.ndim < 2 or not len(array) or not np.isfinite(array).all():
                raise ModelError(f"expected finite numbers (n, *shape), got {array.dtype} of shape {array.shape}")
            if self.shape is not None and array.shape[1:] != self.shape:
                raise ModelError(f"expected examples of shape {self.shape}, got {array.shape[1:]}")
            outputs = self._answer(array)
        except HauberkError as error:
            return 400, {"error": str(error)}, {}
        except Exception as error:  # the served model is foreign code
            return 500, {"error": f"{type(error).__name__}: {error}"}, {}
        made: dict[str, Any] = {"model_name": self.name, "model_version": "1", "outputs": outputs}
        return 200, made | ({"id": document["id"]} if "id" in document else {}), {}

    def _answer(self, array: Any) -> list[dict[str, Any]]:
        """The outputs for these rows, which are logged."""
        with self._lock:
            x = torch.as_tensor(array).to(self.victim.device, self.victim.dtype)
            rows = torch.arange(len(x), device=x.device)
            if self._labels_only:
                labels = self.victim.labels(x, rows).cpu().numpy()
                outputs = [tensor_of("label", "INT64", labels)]
            else:
                scores = self.victim.logits(x, rows).cpu()
                scores = (scores.softmax(dim=1) if self._probabilities else scores).numpy()
                if not np.isfinite(scores).all():
                    raise RuntimeError("the model answers NaN or infinity")
                outputs = self._shown(scores)
            self._write(array)
        return outputs

    def _shown(self, scores: Any) -> list[dict[str, Any]]:
        chosen = None
        if self._top_k is not None:
            chosen, scores = best(scores, self._top_k)
        if self._rounding is not None:
            scores = scores.round(self._rounding)
        tensor = tensor_of("scores", self._datatype, scores)
        return [tensor] if chosen is None else [tensor_of("classes", "INT64", chosen), tensor]

    def _write(self, array: Any) -> None:
        self._requests += 1
        self.answered += len(array)
        if self._log is None:
            return
        now, lines = round(time.time(), 3), []
        for number, row in enumerate(array):
            digest = hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest()
            lines.append(json.dumps({"time": now, "request": self._requests, "row": number, "sha256": digest}))
        self._log.write(("\n".join(lines) + "\n").encode())

    def _began(self, more: int) -> None:
        with self._idle:
            self._busy += more
            self._idle.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: ModelServer) -> None:
        self.owner = owner
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go; that is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "hauberk"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet for head and body
    timeout = 600

    def do_GET(self) -> None:  # the name http.server looks for
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def _respond(self) -> None:
        owner: ModelServer = self.server.owner  # type: ignore[attr-defined]
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            length = -1
        if not 0 <= length <= _LARGEST or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self._send(413, {"error": f"expected Content-Length, at most {_LARGEST} bytes"}, {"Connection": "close"})
            return
        body = self.rfile.read(length)
        owner._began(1)
        try:
            status, document, headers = owner.reply(self.command, self.path, body)
            self._send(status, document, headers)
        finally:
            owner._began(-1)

    def _send(self, status: int, document: Any, headers: dict[str, str]) -> None:
        content = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json", "Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name http.server has
        """The log is of rows, not of requests."""
