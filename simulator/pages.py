"""The inbox as a person reads it: two pages of plain HTML, with no script and nothing from elsewhere."""

import json
from collections import Counter
from collections.abc import Iterable
from html import escape
from typing import Any

from simulator.mail import Mail, rfc3339

PAGE = 100
REFRESH_SECONDS = 5
# A mail's HTML part is a stranger's: its frame inherits this policy, and so can neither run nor fetch.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
    " frame-src 'self'; form-action 'self'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
}

Row = dict[str, Any]

STYLE = """
:root { color-scheme: light dark;
  --ink: #1b2430; --soft: #566273; --line: #d9dee6; --paper: #fff; --back: #f4f6f9; --accent: #0b5cad;
  --good: #14663a; --good-back: #dff3e6; --bad: #9c1c1c; --bad-back: #fbe3e3;
  --wait: #7a4a00; --wait-back: #fdf0d7; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6ebf2; --soft: #a3afbf; --line: #333d4b; --paper: #1a212b; --back: #12171e; --accent: #7cb8f5;
  --good: #8fdcae; --good-back: #163524; --bad: #f5a3a3; --bad-back: #451c1c;
  --wait: #f2c879; --wait-back: #40300f; } }
* { box-sizing: border-box; }
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); }
header, main { max-width: 70rem; margin: auto; padding: 1rem 1.25rem; }
header { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: baseline; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; background: var(--paper); border: 1px solid var(--line); }
caption { text-align: left; padding: .25rem 0; color: var(--soft); }
th, td { text-align: left; vertical-align: top; padding: .55rem .75rem;
  border-bottom: 1px solid var(--line); }
th { font-size: .85rem; color: var(--soft); }
td { overflow-wrap: anywhere; min-width: 6rem; }
time { white-space: nowrap; font-variant-numeric: tabular-nums; }
.tag { display: inline-block; border-radius: 1rem; padding: 0 .6rem; font-size: .85rem; white-space: nowrap; }
.delivered { color: var(--good); background: var(--good-back); }
.failed { color: var(--bad); background: var(--bad-back); }
.pending, .withheld { color: var(--wait); background: var(--wait-back); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre, iframe { width: 100%; background: var(--paper); border: 1px solid var(--line); margin: 0; }
pre { padding: 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
iframe { height: 26rem; background: #fff; }
form { display: flex; gap: .5rem; flex-wrap: wrap; margin: 0 0 1rem; align-items: center; }
input, select, button { font: inherit; padding: .3rem .6rem; }
"""

STATES = {"delivered": "answered", "failed": "given up", "pending": "waiting", "withheld": "never told"}


def inbox(mails: list[Mail], hooks: list[Row], to: str, *, refresh: bool) -> str:
    """List mails, newest first, with what became of their webhooks."""
    by_mail: dict[int, Counter[str]] = {mail.seq: Counter() for mail in mails}
    for hook in hooks:
        by_mail[hook["mail"]][hook["state"]] += 1
    rows = "".join(_inbox_row(mail, by_mail[mail.seq]) for mail in mails)
    table = _table("Newest first", ("Accepted (UTC)", "Provider", "To", "Subject", "Webhooks"), rows)
    nothing = f"<p>No mail{f' to {escape(to)}' if to else ' yet'}.</p>"
    switch = "off" if refresh else "on"
    said = f"Refreshes every {REFRESH_SECONDS} s." if refresh else "Does not refresh."
    query = f"?refresh={switch}" + (f"&amp;to={escape(to)}" if to else "")
    body = f"""<form role="search"><label for="to">Recipient</label><input id="to" name="to" type="search"
      value="{escape(to)}"><button>Show</button></form>
      <p class="soft">{said} <a href="/{query}">Turn refreshing {switch}</a></p>
      {table if mails else nothing}"""
    return _page("Inbox", body, refresh=refresh)


def _inbox_row(mail: Mail, states: Counter[str]) -> str:
    tags = " ".join(_tag(state, f"{count} {STATES[state]}") for state, count in sorted(states.items()))
    return f"""<tr><td>{_time(rfc3339(mail.accepted_at))}</td><td>{escape(mail.provider)}</td>
      <td>{escape(", ".join(mail.recipients))}</td>
      <td><a href="/inbox/{escape(mail.id)}">{escape(mail.subject or "(no subject)")}</a></td>
      <td>{tags or '<span class="soft">none</span>'}</td></tr>"""


def mail(mail: Mail, hooks: list[Row], words: Iterable[str] = ()) -> str:
    """Show one mail: its parts, links, headers and webhooks with their answers.

    ``words`` are what its provider can be made to tell of it.
    """
    links = "".join(f'<li><a href="{escape(link)}">{escape(link)}</a></li>' for link in mail.links)
    facts = {
        "Provider": mail.provider,
        "Provider's id": mail.id,
        "From": mail.sender,
        "To": ", ".join(mail.recipients),
        "Accepted": rfc3339(mail.accepted_at),
        "Idempotency key": mail.idempotency_key or "none",
        "Metadata": json.dumps(mail.metadata, ensure_ascii=False),
    }
    frame = f'<iframe sandbox title="HTML part" srcdoc="{escape(mail.html)}"></iframe>'
    sections = {
        "Links": f"<ul>{links}</ul>" if links else "",
        "Text": f"<pre>{escape(mail.text)}</pre>" if mail.text else "",
        "HTML": frame if mail.html else "",
        "Headers": _facts(mail.headers) if mail.headers else "",
        "Webhooks": _report_form(mail, words) + (_webhooks(hooks) if hooks else ""),
    }
    body = '<p><a href="/">Back to the inbox</a></p>' + _facts(facts)
    body += "".join(f"<h2>{name}</h2>{section or '<p>None.</p>'}" for name, section in sections.items())
    return _page(mail.subject or "(no subject)", body)


def _report_form(mail: Mail, words: Iterable[str]) -> str:
    choices = {"to": dict.fromkeys(mail.recipients), "happening": dict.fromkeys(words)}
    if not choices["happening"]:
        return ""
    to, happening = (
        "".join(f"<option>{escape(each)}</option>" for each in choices[name]) for name in ("to", "happening")
    )
    return f"""<form method="post" action="/inbox/{escape(mail.id)}/reports">
      <label for="to">Recipient</label><select id="to" name="to">{to}</select>
      <label for="happening">What befell it</label><select id="happening" name="happening">{happening}</select>
      <button>Report it now</button></form>"""


def missing() -> str:
    return _page("No such mail", '<p>The log may have been emptied. <a href="/">Back to the inbox</a></p>')


def _webhooks(hooks: list[Row]) -> str:
    rows = "".join(
        f"""<tr><td>{escape(hook["event"])}</td><td>{escape(hook["recipient"])}</td>
        <td>{_tag(hook["state"], STATES[hook["state"]])}</td><td>{hook["attempts"]}</td>
        <td>{hook["status"] or ""} {escape(hook["answer"])}</td>
        <td><details><summary>Body</summary><pre>{escape(_pretty(hook["body"]))}</pre></details></td></tr>"""
        for hook in hooks
    )
    return _table("As planned", ("Event", "Recipient", "State", "Attempts", "Last answer", "Posted"), rows)


def _pretty(body: str) -> str:
    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)


def _tag(state: str, text: str) -> str:
    return f'<span class="tag {state}">{escape(text)}</span>'


def _time(text: str) -> str:
    return f'<time datetime="{escape(text)}">{escape(text[:19].replace("T", " "))}</time>'


def _facts(facts: dict[str, str]) -> str:
    pairs = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(pairs)}</dl>"


def _table(caption: str, heads: tuple[str, ...], rows: str) -> str:
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="{caption}">
      <table><caption>{caption}</caption><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"""


def _page(title: str, body: str, *, refresh: bool = False) -> str:
    again = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if refresh else ""
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1">{again}
      <title>{escape(title)} - mail simulator</title><style>{STYLE}</style></head><body>
      <header><h1>{escape(title)}</h1>
      <span class="soft">Mail simulator: nothing leaves this machine</span></header>
      <main>{body}</main></body></html>"""
