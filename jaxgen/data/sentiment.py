"""Labelled sentences that need no network: a toy, made by a small grammar of opinions.

They show that a classifier works, and no more: a few hundred words in a few dozen patterns, written
for this purpose. A figure reached here says nothing of real reviews. What can be learned from them
is that the order of words matters: most of the opinions hold a word of the other side ("not dull at
all", "i expected it to be awful, but it was a joy"). Logistic regression on single words tells two
thirds of the sentences apart; a third is what guessing reaches.
"""

from collections.abc import Iterator
from functools import cache
from math import gcd, prod

_SUBJECTS = (
    *("the film", "the book", "the meal", "the concert", "the hotel", "the play", "the service"),
    *("the story", "the music", "the new phone", "the exhibition", "the tour", "this recipe"),
    *("the second season", "their last album", "the game"),
)
_GOOD = (
    *("wonderful", "delightful", "brilliant", "charming", "superb", "lovely", "excellent"),
    *("impressive", "a joy", "a pleasure", "great fun", "worth every minute"),
)
_BAD = (
    *("awful", "dull", "dreadful", "boring", "clumsy", "tedious", "disappointing"),
    *("annoying", "a waste of time", "a mess", "hard to bear", "painfully slow"),
)
_DEGREES = ("simply", "truly", "really", "quite", "rather", "just", "absolutely")
_PEOPLE = ("my sister", "a friend", "the critic", "my neighbour", "everyone", "our teacher")
_ACTIONS = (
    ("loved", "enjoyed", "admired", "praised", "adored"),
    (*("hated", "disliked", "regretted", "mocked", "resented"),),
)

# {own} and {other} are judgements of the sentence's side and of the opposite one; {did} and
# {undid} are verbs of the two sides.
_OPINIONS = (
    "{subject} was {degree} {own}.",
    "i found {subject} {degree} {own}.",
    "we all thought that {subject} was {own}.",
    "{person} {did} {subject}, and so did i.",
    "{subject} was not {other} at all.",
    "{subject} was never {other}, not for a moment.",
    "i would not say that {subject} was {other}; it was {own}.",
    "far from being {other}, {subject} was {own}.",
    "i expected {subject} to be {other}, but it was {own}.",
    "{person} called {subject} {other}, but i {did} it.",
    "at first {subject} seemed {other}, yet in the end it was {degree} {own}.",
    "{subject} was {own}, although {person} said it was {other}.",
    "how could anyone have {undid} {subject}? it was {own}.",
    "nobody who {undid} {subject} can be right: it was {degree} {own}.",
)
_NEUTRAL = (
    "{subject} was neither {good} nor {bad}.",
    "{subject} was {good} in one half and {bad} in the other.",
    "{person} asked me whether {subject} was {good}.",
    "i have not decided yet if {subject} is {good} or {bad}.",
    "{person} told me about {subject} on {day}.",
    "{subject} begins at {hour} on {day}.",
    "we read about {subject} in the {place} on {day}.",
    "{person} went out on {day} to see what {subject} is.",
    "there is a note about {subject} in the {place}.",
    "{subject} will be the same on {day} as on any other day.",
    "{person} has a picture of {subject} from the {place}.",
    "do you know if {subject} starts at {hour}?",
)
_FACTS = {
    "day": ("monday", "tuesday", "friday", "sunday", "saturday"),
    "hour": ("seven", "half past eight", "noon", "ten", "six in the evening"),
    "place": ("newspaper", "library", "guide", "calendar", "market", "morning paper"),
}
_SENTENCES_OF_A_CLASS = 480


@cache
def sentiment_sentences() -> tuple[tuple[str, str], ...]:
    """The sentences, each once, with their labels: negative, neutral or positive.

    About as many of each label, in small letters, the same in every process.
    """
    common = {"subject": _SUBJECTS, "person": _PEOPLE, "degree": _DEGREES}
    words = {
        "negative": {"own": _BAD, "other": _GOOD, "did": _ACTIONS[1], "undid": _ACTIONS[0]},
        "neutral": {"good": _GOOD, "bad": _BAD} | _FACTS,
        "positive": {"own": _GOOD, "other": _BAD, "did": _ACTIONS[0], "undid": _ACTIONS[1]},
    }
    sentences: dict[str, str] = {}
    for label, slots in words.items():
        patterns = _NEUTRAL if label == "neutral" else _OPINIONS
        for pattern in patterns:
            most = _SENTENCES_OF_A_CLASS // len(patterns)
            sentences |= dict.fromkeys(_spread(pattern, common | slots, most), label)
    return tuple(sentences.items())


def _spread(pattern: str, slots: dict[str, tuple[str, ...]], most: int) -> Iterator[str]:
    """Yield sentences of one pattern, spread evenly over all that its slots allow."""
    used = {name: values for name, values in slots.items() if f"{{{name}}}" in pattern}
    total = prod(map(len, used.values()))
    # Steps of about the golden section, prime to the total, meet no sentence twice.
    step = next(step for step in range(round(total * 0.618), 2 * total) if gcd(step, total) == 1)
    for place in range(min(most, total)):
        rest, chosen = place * step % total, {}
        for name, values in used.items():
            rest, index = divmod(rest, len(values))
            chosen[name] = values[index]
        yield pattern.format(**chosen)
