"""E-mails to operators, as text and HTML. They contain ids, never user ids, bodies, headers or secrets."""

from collections.abc import Sequence
from html import escape

from callbacks import clients, config

SENDER = config.required("EMAIL_FROM")
RECIPIENTS = config.required("EMAIL_TO").split(",")
ENVIRONMENT = config.required("ENVIRONMENT")
# A list that is longer ends with "and n more".
MAX_LINES = 100

ses = clients.connect("ses", read_timeout=0.9)

type Rows = Sequence[Sequence[str]]


def send(subject: str, text: str, html: str) -> str:
    """Send an e-mail to all recipients, and return SES's id for it. Raises botocore's errors."""
    response = ses.send_email(
        Source=SENDER,
        Destination={"ToAddresses": RECIPIENTS},
        Message={
            "Subject": _content(f"[{ENVIRONMENT}] {subject}"),
            "Body": {"Text": _content(text), "Html": _content(html)},
        },
    )
    return str(response["MessageId"])


def send_list(subject: str, introduction: str, headings: Sequence[str], rows: Rows, total: int) -> str:
    """Send the first MAX_LINES rows of `total`, and return SES's id for the e-mail. Raises botocore's errors."""
    shown = rows[:MAX_LINES]
    rest = f"and {total - len(shown)} more" if total > len(shown) else ""
    text = f"{introduction}\n\n{text_of([headings, *shown])}{rest}\n"
    return send(subject, text, f"<p>{escape(introduction)}</p>{html_of(shown, headings)}<p>{rest}</p>")


def text_of(rows: Rows) -> str:
    """Return a table as text, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def html_of(rows: Rows, headings: Sequence[str] = ()) -> str:
    """Return a table as HTML, with headings above its columns; without them the first cell of a row is its heading."""
    above = f"<tr>{''.join(map(_heading, headings))}</tr>" if headings else ""
    below = (_row(*row) if headings else _heading(row[0]) + _row(*row[1:]) for row in rows)
    return f"<table>{above}{''.join(f'<tr>{row}</tr>' for row in below)}</table>"


def _heading(text: str) -> str:
    return f'<th align="left">{escape(text)}</th>'


def _row(*cells: str) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _content(data: str) -> dict[str, str]:
    return {"Data": data, "Charset": "UTF-8"}
