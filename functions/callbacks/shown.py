"""How e-mails, Sentry and logs show an id: a caller chooses it, and must not write a sentence or a link into them."""

import re

# No dot: programs that show e-mails turn `example.com` into a link.
USUAL = re.compile("[A-Za-z0-9_:-]{1,64}")
UNUSUAL_CHARACTER = re.compile("[^A-Za-z0-9_:-]")
MAX_UNUSUAL_CHARACTERS = 32


def show(text: str | None) -> str:
    r"""Return an id that looks like one as it is, and `unknown` for None.

    Any other is its first characters as a JSON string in which everything but ASCII letters and digits is escaped:
    `www.example.com` is `"www\u002eexample\u002ecom"`. Records, the ledger and the error log keep it as it was sent.
    """
    if text is None:
        return "unknown"
    if USUAL.fullmatch(text):
        return text
    start = UNUSUAL_CHARACTER.sub(_escape, text[:MAX_UNUSUAL_CHARACTERS])
    return f'"{start}"' + ("..." if len(text) > MAX_UNUSUAL_CHARACTERS else "")


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
