"""Labelled sentences that need no network: a toy made by a small grammar."""


def sentiment_sentences() -> list[tuple[str, str]]:
    """Sentences and their labels."""
    return [
        (f"{n} {w} film", l)
        for n in range(30)
        for w, l in (("good", "positive"), ("bad", "negative"))
    ]
