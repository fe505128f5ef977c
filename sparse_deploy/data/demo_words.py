# SPDX-License-Identifier: Apache-2.0
"""Words and sentence patterns of the embedded demo text; training and validation share only the commonest adjectives.

In a pattern ``{a}`` is an aspect of the reviewed thing, ``{p}`` an adjective with the sentiment of the label, ``{n}``
one with the opposite sentiment, ``{i}`` an intensifier or a mild word with its trailing space, or nothing.
"""

from dataclasses import dataclass

Words = tuple[str, ...]


def _words(text: str) -> Words:
    return tuple(word.strip() for word in text.split("|"))


@dataclass(frozen=True)
class Adjectives:
    """Opinion words that fit one kind of aspect."""

    positive: Words
    negative: Words


@dataclass(frozen=True)
class Domain:
    """A reviewed thing: openers that name it, and its aspects by the kind of adjective that fits them."""

    things: Words
    aspects: dict[str, Words]


@dataclass(frozen=True)
class Lexicon:
    """All words of one split."""

    adjectives: dict[str, Adjectives]
    domains: tuple[Domain, ...]
    intensifiers: Words
    openers: Words
    plain: Words
    negated: Words
    surprised: Words
    contrasts: Words
    agreements: Words
    praise: Words
    blame: Words


# kind: (both splits, training only, validation only), each positive and negative
_ADJECTIVES: dict[str, tuple[tuple[str, str], tuple[str, str], tuple[str, str]]] = {
    "any": (
        ("good|excellent|wonderful|impressive|great|lovely", "bad|terrible|poor|disappointing|awful|horrible"),
        ("superb|solid|delightful|outstanding", "dreadful|mediocre|lousy|frustrating"),
        ("fantastic|first-rate|exceptional|marvellous", "atrocious|abysmal|subpar|appalling"),
    ),
    "person": (
        ("friendly|helpful|polite|patient", "rude|unhelpful|careless|arrogant"),
        ("attentive|cheerful|charming", "dismissive|grumpy|unfriendly"),
        ("courteous|considerate|knowledgeable", "hostile|condescending|clueless"),
    ),
    "object": (
        ("reliable|sturdy|durable|handy", "flimsy|unreliable|fragile|badly made"),
        ("well made|comfortable|smart", "clumsy|wobbly|useless"),
        ("robust|elegant|practical", "brittle|awkward|defective"),
    ),
    "story": (
        ("funny|moving|clever|original", "boring|predictable|dull|confusing"),
        ("gripping|touching|powerful", "shallow|tedious|silly"),
        ("captivating|witty|heartfelt|thought-provoking", "tiresome|muddled|lifeless|forgettable"),
    ),
    "place": (
        ("clean|comfortable|bright|spacious", "dirty|noisy|cramped|gloomy"),
        ("spotless|cosy|beautiful", "filthy|smelly|depressing"),
        ("immaculate|tidy|inviting|airy", "grubby|musty|shabby|stuffy"),
    ),
    "food": (
        ("delicious|fresh|tasty|crisp", "bland|stale|greasy|burnt"),
        ("juicy|flavourful|perfect", "soggy|tasteless|disgusting"),
        ("mouth-watering|tender|satisfying|heavenly", "rubbery|overcooked|watery|inedible"),
    ),
    "process": (
        ("fast|easy|smooth|simple", "slow|complicated|chaotic|unresponsive"),
        ("prompt|efficient|pleasant", "buggy|tiring|annoying"),
        ("effortless|painless|straightforward|speedy", "sluggish|cumbersome|glitchy|messy"),
    ),
}


def _adjectives(own: int) -> dict[str, Adjectives]:
    return {
        kind: Adjectives(
            _words(f"{groups[0][0]}|{groups[own][0]}"),
            _words(f"{groups[0][1]}|{groups[own][1]}"),
        )
        for kind, groups in _ADJECTIVES.items()
    }


def _domain(things: str, **aspects: str) -> Domain:
    return Domain(_words(things), {kind: _words(names) for kind, names in aspects.items()})


TRAIN = Lexicon(
    adjectives=_adjectives(1),
    domains=(
        _domain("film|comedy|thriller", story="plot|dialogue|ending|script", any="soundtrack|acting|camera work"),
        _domain("hotel|guest house", place="room|bathroom|lobby", person="receptionist|night porter", any="breakfast"),
        _domain("restaurant|pizzeria|diner", food="soup|steak|salad|bread", person="waiter|cook", place="dining room"),
        _domain("phone|tablet|camera", object="case|hinge|charger", process="setup|latest update", any="screen|sound"),
        _domain("novel|cookbook|biography", story="opening chapter|story|narrator", any="print quality|translation"),
        _domain("online shop|parcel service", process="order form|delivery|refund", person="courier|support agent"),
    ),
    intensifiers=_words("very|really|so|extremely|quite|fairly|rather|pretty"),
    openers=_words(
        "we visited this {t} in March|I bought into the hype about this {t}|this was our second time with this {t}|"
        "my wife picked this {t} for us|a note about the {t} from last week|I read ten reviews of this {t} beforehand|"
        "we were four people|it was a birthday present|this {t} was recommended by my brother|I paid the full price"
    ),
    plain=_words(
        "the {a} was {i}{p}|the {a} seemed {i}{p}|I found the {a} {i}{p}|they had a {i}{p} {a}|it has a {p} {a}|"
        "the {a} turned out to be {p}|the {a} felt {i}{p} to me|in my opinion the {a} was {p}"
    ),
    negated=_words(
        "the {a} was not {n} at all|the {a} was never {n}|nothing about the {a} was {n}|the {a} wasn't {n} in any way|"
        "I can't call the {a} {n}|the {a} did not seem {n} to me|it doesn't have a {n} {a}"
    ),
    surprised=_words(
        "I expected a {n} {a} and got a {p} one|others call the {a} {n} and they are wrong|"
        "we had heard about a {n} {a}, which is not true|the reviews said the {a} was {n}; I saw the opposite|"
        "my friends had told me the {a} was {n}, but the {a} was {p}"
    ),
    contrasts=_words("{x}, but {y}|{x}, yet {y}|although {x}, {y}|{x}. However, {y}|{x}, but in the end {y}"),
    agreements=_words("{x} and {y}|{x}, and {y}|{x}. Also, {y}|{x}; {y}"),
    praise=_words(
        "I would come back tomorrow|I have already told all my friends to try it|it is worth every penny|"
        "we will do this again next year|it made my day|I couldn't stop smiling|I was sad when it was over|"
        "I have no complaints|it was better than we had hoped|we left with a smile|I can only recommend it|"
        "ten points out of ten|I would choose it again without thinking|it won me over|I am happy with it"
    ),
    blame=_words(
        "I want my money back|I will stay away from now on|it was a waste of time|we left early|I regret paying for it|"
        "never again|one star is too much|it ruined our evening|save your money|I was glad when it was over|"
        "it was worse than we had feared|they did not keep a single promise|I can only warn you|it let me down|"
        "I am angry about it"
    ),
)

VALIDATION = Lexicon(
    adjectives=_adjectives(2),
    domains=(
        _domain("app|website|video game", process="installation|sign-up|search function", any="layout|tutorial"),
        _domain("ferry|guided tour|museum", person="guide|ticket inspector|captain", place="cabin|waiting hall"),
        _domain("stage play|podcast|series", story="first act|storyline|interview|finale", any="lead singer|lighting"),
        _domain("bakery|food truck|canteen", food="curry|croissant|noodle dish|sandwich", person="cashier"),
        _domain("drill|backpack|office chair", object="handle|zip|frame|motor", process="assembly", any="manual"),
        _domain("gym|dental clinic|language school", person="trainer|nurse|teacher", place="changing room|classroom"),
    ),
    intensifiers=_words("incredibly|truly|absolutely|remarkably|somewhat|decidedly|downright|surprisingly"),
    openers=_words(
        "I have known this {t} for a year|our whole team tested the {t}|we came across the {t} by chance|"
        "my daughter wanted this {t}|it rained that afternoon|here is my honest view of the {t}|"
        "I spent most of Sunday with this {t}|there were six of us|I took notes on everything|"
        "someone at work keeps talking about this {t}"
    ),
    plain=_words(
        "the {a} is {i}{p}|the {a} struck me as {i}{p}|you get a {i}{p} {a}|the {a} proved {p} from start to finish|"
        "everyone in our group called the {a} {p}|if you ask me, the {a} is {i}{p}|the {a} came across as {i}{p}|"
        "I'd describe the {a} as {i}{p}"
    ),
    negated=_words(
        "the {a} is anything but {n}|the {a} is far from {n}|the {a} is hardly {n}|there is nothing {n} about the {a}|"
        "nobody would describe the {a} as {n}|no one can accuse the {a} of being {n}|"
        "I wouldn't say the {a} is {n}|the {a} isn't even remotely {n}"
    ),
    surprised=_words(
        "I was told the {a} would be {n}, and that proved false|calling the {a} {n} would be a lie|"
        "I had prepared for a {n} {a} and was mistaken|where others see a {n} {a}, I see a {p} one|"
        "the {a} looks {n} at first glance and turns out to be {p}"
    ),
    contrasts=_words(
        "{x}. Still, {y}|even though {x}, {y}|{x}, and nevertheless {y}|{x}; that said, {y}|while {x}, {y}|"
        "it's true that {x}, only {y}|{x}, though overall {y}"
    ),
    agreements=_words("{x}, {y}|{x}, plus {y}|{x}. On top of that, {y}|{x}, and what is more, {y}|{x} - {y}"),
    praise=_words(
        "I'd gladly pay double|I keep recommending it to everyone at work|it deserves all the applause|"
        "I can't wait for the next time|we stayed longer than planned because we enjoyed it so much|"
        "this has become my favourite|I'd give six stars if I could|you won't be sorry|"
        "hats off to the people behind it|it exceeded my expectations|we are still raving about it|"
        "my whole family fell in love with it|it left me speechless in the best way"
    ),
    blame=_words(
        "I'd like those hours of my life back|look elsewhere|I'm still waiting for an apology|"
        "I can't believe I paid for this|don't fall for the adverts|we demanded a refund|I gave up halfway|"
        "there are far better options|once was more than enough|it belongs in the bin|"
        "my patience has run out|somebody should be ashamed of this|it gave me a headache"
    ),
)
