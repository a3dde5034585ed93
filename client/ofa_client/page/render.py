"""Captions, times and errors as HTML. All text from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ofa_client.page.texts import TEXTS
from ofa_client.results import Caption

STYLE = """
#picture img { width: 100%; height: 100%; object-fit: contain; }
@media (max-width: 640px) { #top { flex-direction: column; } }
.ofa-words:lang(zh) > [lang="en"], .ofa-words:not(:lang(zh)) > [lang="zh"] { display: none; }
.ofa-source { margin: 0 0 .25rem; overflow-wrap: anywhere; font-size: .85rem; }
.ofa-captions { margin: 0; padding: 0; list-style: none; }
.ofa-captions li { display: flex; gap: 1rem; justify-content: space-between; align-items: baseline; padding: .5rem 0;
  border-bottom: 1px solid var(--border-color-primary); }
.ofa-captions li:first-child .ofa-text { font-size: 1.35rem; font-weight: 600; }
.ofa-text { overflow-wrap: anywhere; }
.ofa-score { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.ofa-meaning { margin: .5rem 0 0; font-size: .85rem; }
.ofa-bar { display: flex; height: .75rem; margin: 1.25rem 0 .5rem; border-radius: .375rem; overflow: hidden; }
.ofa-bar i { min-width: 2px; }
.ofa-times { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 0; padding: 0; list-style: none;
  font-size: .85rem; }
.ofa-times b { display: inline-block; width: .6rem; height: .6rem; margin-right: .35rem; border-radius: 50%; }
.ofa-error { padding: .75rem 1rem; border-left: .25rem solid #dc2626; background: #dc262618; border-radius: .25rem; }
footer { display: none !important; }
"""
"""The page's style sheet; colours come from the theme, so that it is readable in the dark as well."""

_COLOURS = ("#cbd5e1", "#38bdf8", "#6366f1", "#e2e8f0", "#f59e0b")


def captions_html(captions: Sequence[Caption], address: str | None = None) -> str:
    """Show captions with scores, best first, and how long each stage took; where they are of an address, name it."""
    source = f'<p class="ofa-source">{escape(address)}</p>' if address else ""
    items = [
        f'<li><span class="ofa-text">{escape(caption.text)}</span>'
        f'<span class="ofa-score">{caption.score:.3f}</span></li>'
        for caption in captions
    ]
    meaning = f'<p class="ofa-meaning">{_words("score")}</p>'
    return f'{source}<ol class="ofa-captions">{"".join(items)}</ol>{meaning}{_times_html(captions[0].timing_ms or {})}'


def _times_html(timing_ms: Mapping[str, float]) -> str:
    bar, names = [], []
    for (stage, milliseconds), colour in zip(timing_ms.items(), _COLOURS):
        bar.append(f'<i style="flex:{milliseconds:.3f};background:{colour}"></i>')
        names.append(f'<li><b style="background:{colour}"></b>{_words(stage)} {milliseconds:.0f} ms</li>')
    total = f"<li>{_words('time')} {sum(timing_ms.values()):.0f} ms</li>"
    return f'<div class="ofa-bar">{"".join(bar)}</div><ul class="ofa-times">{total}{"".join(names)}</ul>'


def error_html(code: str) -> str:
    """Show in words what went wrong; what only an operator can mend is one sentence."""
    return f'<div class="ofa-error" role="alert">{_words(code if code in TEXTS["en"] else "OTHER")}</div>'


def waiting_html() -> str:
    """Show where the captions will be."""
    return f'<div class="ofa-waiting">{_words("waiting")}</div>'


def _words(key: str) -> str:
    """Say it in every language: the style sheet shows the page's, so that another one asks the server nothing anew."""
    each = (f'<span lang="{language}">{escape(texts[key])}</span>' for language, texts in TEXTS.items())
    return f'<span class="ofa-words">{"".join(each)}</span>'


def heading(language: str) -> str:
    """The page's first lines, in Markdown."""
    texts = TEXTS[language]
    return f"# {texts['title']}\n{texts['intro']}"
