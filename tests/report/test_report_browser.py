"""The report in a real browser: it paints, in every scheme and width, without an error and without asking the network."""

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome to open the report in"
)

QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--hide-scrollbars",
    "--enable-logging=stderr", "--v=0",
]  # fmt: skip


class Proxy(http.server.BaseHTTPRequestHandler):
    """Refuses every request and remembers what was asked for."""

    asked: list[str]

    def refuse(self) -> None:
        self.asked.append(self.path)
        self.send_error(502)

    do_GET = do_POST = do_CONNECT = do_HEAD = refuse  # the names http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Nothing: the standard error is the browser's."""


@pytest.fixture
def proxy() -> Iterator[tuple[int, list[str]]]:
    """The port of a proxy that stands for the whole network, and what it was asked."""
    asked: list[str] = []
    handler = type("Handler", (Proxy,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1], asked
        server.shutdown()
        thread.join()


def opened(page: Path, folder: Path, port: int, *options: str, size: str = "1200,900") -> tuple[Image.Image, str]:
    """A screenshot of a page and what the console said, all of the browser's traffic going through the proxy."""
    assert CHROMIUM is not None
    shot = folder / "shot.png"
    command = [
        CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--proxy-server=http://127.0.0.1:{port}",
        "--proxy-bypass-list=<-loopback>", f"--window-size={size}", f"--screenshot={shot}", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, text=True, errors="replace", check=False)
    assert shot.exists(), done.stderr
    with Image.open(shot) as image:
        image.load()
        said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        return image.convert("RGB"), "\n".join(said)


def of_the_page(asked: list[str]) -> list[str]:
    """Requests that are not the browser's own calls home, whose hosts the report does not name (another test reads it)."""
    own = ("google.com", "googleapis.com", "gvt1.com", "gstatic.com")
    return [url for url in asked if not any(host in url for host in own)]


@pytest.mark.parametrize(
    ("options", "size", "brightness"),
    [
        (["--blink-settings=preferredColorScheme=1"], "1200,4600", (180, 256)),
        (["--blink-settings=preferredColorScheme=0"], "1200,4600", (0, 90)),
        (["--blink-settings=preferredColorScheme=1"], "500,7000", (180, 256)),
    ],
    ids=["light", "dark", "narrow"],
)
def test_the_report_paints_without_an_error_or_a_request(
    digits_page: Path,
    tmp_path: Path,
    proxy: tuple[int, list[str]],
    options: list[str],
    size: str,
    brightness: tuple[int, int],
) -> None:
    port, asked = proxy
    image, console = opened(digits_page, tmp_path, port, *options, size=size)
    pixels = np.asarray(image, dtype=float)
    assert console == ""
    assert of_the_page(asked) == []
    assert brightness[0] <= float(np.median(pixels)) < brightness[1]
    bands = np.array_split(pixels[: int(0.8 * len(pixels))], 8)
    assert min(float(band.std()) for band in bands) > 5  # no part of the page is blank
    side = pixels[:, -6:]
    assert float(side.std(axis=(0, 1)).max()) < 1  # nothing runs over the right edge


def test_the_browser_test_would_see_an_error_and_a_request(tmp_path: Path, proxy: tuple[int, list[str]]) -> None:
    port, asked = proxy
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><script>console.error('a fault')</script><img src='http://tracker.test/pixel.png'>")
    _, console = opened(page, tmp_path, port)
    assert "a fault" in console
    assert any("tracker.test" in url for url in of_the_page(asked))


def test_the_printed_report_is_light_and_paged(digits_page: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    pdf = tmp_path / "report.pdf"
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--blink-settings=preferredColorScheme=0",
               "--no-pdf-header-footer", f"--print-to-pdf={pdf}", digits_page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, text=True, errors="replace", check=False)
    assert pdf.exists(), done.stderr
    assert 3 <= pdf.read_bytes().count(b"/Type /Page\n") <= 7
    rasterise = shutil.which("pdftoppm")
    if rasterise is None:
        pytest.skip("no pdftoppm (poppler-utils) to look at the printed page with")
    subprocess.run(
        [rasterise, "-r", "40", "-png", "-f", "1", "-l", "1", pdf, tmp_path / "sheet"], check=True, timeout=60
    )
    with Image.open(next(tmp_path.glob("sheet*.png"))) as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    assert np.median(pixels) == 255
    assert pixels.std() > 5
