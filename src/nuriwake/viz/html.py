"""Pieces of a self-contained HTML page: escaped text, tables, inline pictures, one style for light, dark and phone.

A page loads nothing and runs nothing: its Content-Security-Policy forbids all but inline style and `data:` pictures and fonts.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape, unescape
from typing import TYPE_CHECKING, NewType

import cv2
import numpy as np

from nuriwake.core.labels import Colour
from nuriwake.viz.figures import figure_bytes
from nuriwake.viz.fonts import font_subset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Html = NewType("Html", str)
"""Markup that is safe to insert. Plain `str` becomes `Html` only through `text`."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --muted: #5c666d; --paper: #ffffff; --card: #f4f6f7; --line: #d9dee1;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaed; --muted: #9aa5ad; --paper: #15191c; --card: #1f2529;
  --line: #343c42; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font-family: system-ui, "Segoe UI", "Hiragino Sans", "Yu Gothic UI", "Noto Sans CJK JP", "Noto Sans JP", nuriwake, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: .4rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; } .muted { color: var(--muted); font-size: .88rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem; }
.fact { background: var(--card); border-radius: .6rem; padding: .7rem .9rem; overflow-wrap: anywhere; }
.fact b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; line-height: 1.3; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; min-width: 50%; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 600; white-space: nowrap; }
td { overflow-wrap: break-word; min-width: 3.2rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: .2em; border: 1px solid var(--muted);
  margin-right: .45em; vertical-align: -.05em; }
.legend span { white-space: nowrap; margin-right: 1rem; font-size: .85rem; }
.plot { background: #fff; border-radius: .6rem; padding: .5rem; display: inline-block; max-width: 100%; }
.plot img { display: block; max-width: 100%; height: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: .6rem; }
.plots .plot img { width: 100%; }
.big .plot { max-width: none; } .big .plot img { max-width: none; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .5rem; }
figure { margin: 0; } figcaption { font-size: .8rem; color: var(--muted); }
.tiles img { width: 100%; height: auto; display: block; border-radius: .3rem; }
pre { background: var(--card); padding: .8rem; border-radius: .6rem; overflow-x: auto; font-size: .8rem; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 40rem) { .tiles { grid-template-columns: 1fr 1fr; } td, th { padding-right: .6rem; } }
@media print { details { display: none; } .plot, .example { break-inside: avoid; } }
"""

_POLICY = "default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'"


def text(value: object) -> Html:
    """`value` as text, escaped."""
    return Html(escape(str(value), quote=True))


def join(parts: Iterable[Html]) -> Html:
    """Markup after markup."""
    return Html("\n".join(parts))


def element(tag: str, *inside: Html, kind: str = "") -> Html:
    """`<tag class="kind">inside</tag>`; `tag` and `kind` are ours, never the user's."""
    opening = f'<{tag} class="{kind}">' if kind else f"<{tag}>"
    return Html(f"{opening}{''.join(inside)}</{tag}>")


def section(title: str, *inside: Html) -> Html:
    """A titled part of the page; nothing where there is nothing inside."""
    filled = [part for part in inside if part]
    return element("section", element("h2", text(title)), *filled) if filled else Html("")


def table(header: Sequence[str], rows: Sequence[Sequence[Html]], *, numbers_from: int | None = None) -> Html:
    """A table that scrolls sideways where it is too wide; columns from `numbers_from` on are aligned right."""
    kinds = ["number" if numbers_from is not None and index >= numbers_from else "" for index in range(len(header))]
    head = [element("th", text(title), kind=kind) for title, kind in zip(header, kinds, strict=True)]
    body = [
        element("tr", *(element("td", cell, kind=kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows
    ]
    return element(
        "div", element("table", element("thead", element("tr", *head)), element("tbody", *body)), kind="wide"
    )


def swatch(colour: Colour) -> Html:
    """A small square of `colour`."""
    red, green, blue = (int(channel) for channel in colour)
    return Html(f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>')


def details(title: str, *inside: Html) -> Html:
    """A part that opens on a click."""
    return element("details", element("summary", text(title)), *inside)


def picture(image: np.ndarray, *, about: str) -> Html:
    """`image` uint8 RGB (H, W, 3) as an inline JPEG of quality 88."""
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {image.shape} as JPEG.")
    return _inline(data.tobytes(), "image/jpeg", about)


def plot(figure: "Figure", *, about: str) -> Html:
    """`figure` as an inline SVG picture (sharp at any zoom; scripts in pictures never run) on white."""
    return element("div", _inline(figure_bytes(figure, "svg"), "image/svg+xml", about), kind="plot")


def page(title: str, *inside: Html) -> str:
    """The whole document. Its Japanese (and other) characters travel with it: the reader's machine may have no font for them."""
    body = join(inside)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title><style>{_font_face(title + body)}{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _font_face(written: str) -> str:
    data = font_subset({character for character in unescape(written) if ord(character) > 0xFF})
    if not data:
        return ""
    return f'@font-face {{ font-family: nuriwake; src: url("data:font/woff;base64,{b64encode(data).decode()}"); }}'


def _inline(data: bytes, kind: str, about: str) -> Html:
    return Html(f'<img src="data:{kind};base64,{b64encode(data).decode()}" alt="{text(about)}">')
