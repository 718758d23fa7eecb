"""Draws docs/images anew: `python -m tests.docs.pictures`, with Chromium on the path.

A gateway of its own (`postroom dev` on free ports) gets the mail of an invented shop, by SMTP and by the client, and
its dashboard is looked at as a visitor sees it: in light colours, at the size of a small window. Where pngquant is
installed, it makes the files small.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import smtplib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Page, async_playwright

from gateway.client import File, Message, Postroom
from tests.docs import pages
from tests.web.dashboard import browser

IMAGES: Final = pages.ROOT / "docs" / "images"
STARTING: Final = 120  # looks at dev.json, a second apart
SIZE: Final = {"width": 1200, "height": 760}
COMMAND: Final = (sys.executable, "-m", "gateway.cli", "dev")
PORTS: Final = ("--http-port", "0", "--smtp-port", "0", "--submission-port", "0")
CODE: Final = """<div style="font-family: sans-serif; max-width: 30em; color: #1c2733">
<h2 style="color: #14532d">Welcome to Fern &amp; Field</h2>
<p>Hello Jo, type this code to finish signing up:</p>
<p style="font-size: 28px; letter-spacing: 4px; background: #eef5ee; padding: 12px 20px; border-radius: 8px">
<b>482 913</b></p>
<p>Or open <a href="https://fern.example/verify?token=8c1d">this link to verify your address</a>. Both are good for ten
minutes.</p><p style="color: #667">Fern &amp; Field, 12 Garden Row</p></div>"""
ARRIVING: Final = (
    ("Fern & Field <hello@fern.example>", "Welcome! Your code is 482913", "Your code is 482 913.", CODE),
    ("Billing <billing@fern.example>", "Invoice for November", "Your invoice is attached.", ""),
    ("Ada Moreau <ada@inn.example>", "Re: The proofs for the spring catalogue", "They look good to me.", ""),
    ("Ravelin Bank <no-reply@bank.example>", "Votre code de connexion", "Votre code de connexion : 730218.", ""),
    ("CI <builds@ci.example>", "main is green again", "All 214 checks passed.", ""),
    ("Fern & Field <hello@fern.example>", "Set a new password", "https://fern.example/reset?token=51b0", ""),
)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="postroom-pictures-") as folder, _gateway(Path(folder)) as told:
        with Postroom(url=told["http_url"], api_key=told["api_key"]) as postroom:
            code, sent = _mail(postroom, told)
        asyncio.run(_draw(told, {"mail": "/mail", "message": f"/mail/{code.id}", "email": f"/emails/{sent}"}))
    _shrink()


@contextlib.contextmanager
def _gateway(folder: Path) -> Iterator[Mapping[str, Any]]:
    """What dev.json tells of a gateway that runs meanwhile."""
    environment = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    process = subprocess.Popen(
        [*COMMAND, *PORTS, "--data-dir", folder], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(STARTING):
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"postroom dev ended with {process.wait(1)}")
            if (folder / "dev.json").exists():
                break
        yield json.loads((folder / "dev.json").read_text())
    finally:
        process.terminate()
        process.wait()


def _mail(postroom: Postroom, told: Mapping[str, Any]) -> tuple[Message, str]:
    """Some mail in and out: the message with the code, and the id of an e-mail that was sent."""
    inboxes = {name: postroom.mailbox(address=f"{name}@postroom.test", ttl=3600) for name in ("jo", "books", "ci")}
    with smtplib.SMTP(told["smtp_host"], told["smtp_port"]) as smtp:
        for number, (sender, subject, text, html) in enumerate(reversed(ARRIVING)):
            smtp.send_message(_letter(sender, subject, text, html, ("ci", "books", "jo")[number % 3]))
    code = inboxes["jo"].wait(subject="Welcome", timeout=60)
    sent = postroom.send(
        from_="Fern & Field <shop@postroom.test>",
        to=["jo@postroom.test", "ada@inn.example"],
        subject="Your order is on its way",
        html="<h2>On its way</h2><p>Two ferns and a trowel.</p>",
        attachments=[File(filename="order.txt", content=b"2 x fern\n1 x trowel\n")],
        tags={"kind": "order"},
    )
    sent.wait("sent", timeout=60)
    return code, sent.id


def _letter(sender: str, subject: str, text: str, html: str, local_part: str) -> EmailMessage:
    letter = EmailMessage()
    letter["From"], letter["To"], letter["Subject"] = sender, f"{local_part}@postroom.test", subject
    letter.set_content(text)
    if html:
        letter.add_alternative(html, subtype="html")
    if "Invoice" in subject:
        letter.add_attachment(b"No. 17", maintype="text", subtype="plain", filename="invoice.txt")
    return letter


async def _draw(told: Mapping[str, Any], paths: Mapping[str, str]) -> None:
    options = [option for option in browser.OPTIONS if not option.startswith(("--headless", "--remote-debugging"))]
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=browser.find(), args=options)
        page = await chromium.new_page(base_url=told["http_url"], viewport=SIZE, color_scheme="light")  # type: ignore[arg-type] # a size
        await page.goto(told["dashboard_url"])
        for name, path in paths.items():
            await _draw_one(page, path, IMAGES / f"{name}.png")
        await chromium.close()


async def _draw_one(page: Page, path: str, file: Path) -> None:
    await page.goto(path)
    await page.wait_for_load_state("load")
    await page.get_by_text("Live", exact=True).wait_for()
    await page.screenshot(path=file, animations="disabled")


def _shrink() -> None:
    if pngquant := shutil.which("pngquant"):
        for file in IMAGES.glob("*.png"):
            subprocess.run([pngquant, "--force", "--strip", "--output", file, "64", file], check=True)
    for file in sorted(IMAGES.glob("*.png")):
        sys.stdout.write(f"{file.relative_to(pages.ROOT)}  {file.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    main()
