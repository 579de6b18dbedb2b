"""The language of the demo world: its words with their parts of speech, and phrase templates.

One list serves three ends: the generator writes expressions from it, the tiny tagger learns its
parts of speech, the tiny RoBERTa learns its sentences.
"""

SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow")

#: What an expression needs to be resolved (design: the arrow of time).
TAGS = ("static", "reversible", "irreversible")

#: Motion -> phrases that may follow "the <noun phrase>".
REVERSIBLE = {
    "stays": ("that stays still", "standing still", "resting in its place"),
    "moves": ("that travels", "moving to another place", "that travels through the scene"),
    "sideways": ("moving sideways", "that slides sideways", "travelling sideways"),
    "vertically": ("moving vertically", "that travels vertically", "travelling vertically"),
    "spins": ("spinning in its place", "that spins", "turning around itself"),
}
IRREVERSIBLE = {
    "left": ("moving left", "that slides to the left", "travelling to the left"),
    "right": ("moving right", "that slides to the right", "travelling to the right"),
    "up": ("moving up", "that rises", "travelling upwards"),
    "down": ("moving down", "that sinks", "travelling downwards"),
    "grows": ("growing", "that grows slowly", "becoming larger"),
    "shrinks": ("shrinking", "that shrinks slowly", "becoming smaller"),
    "clockwise": ("spinning clockwise", "that turns clockwise"),
    "counterclockwise": ("spinning counterclockwise", "that turns counterclockwise"),
}
OPPOSITE = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "grows": "shrinks",
    "shrinks": "grows",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}

#: Universal part of speech of every word that an expression can contain.
PART_OF_SPEECH = {
    **dict.fromkeys(("the", "all", "its", "another"), "DET"),
    **dict.fromkeys(COLOURS, "ADJ"),
    **dict.fromkeys(("larger", "smaller", "still"), "ADJ"),
    **dict.fromkeys((*SHAPES, *(s + "s" for s in SHAPES)), "NOUN"),
    **dict.fromkeys(
        ("object", "objects", "one", "ones", "scene", "place", "left", "right"), "NOUN"
    ),
    **dict.fromkeys(("that", "itself"), "PRON"),
    **dict.fromkeys(("in", "to", "through", "around"), "ADP"),
    **dict.fromkeys(
        (
            *("stays", "stay", "standing", "moving", "resting", "travels"),
            *("travel", "travelling", "slides", "slide", "spinning", "spins", "spin", "turning"),
            *("turns", "turn", "rises", "rise", "sinks", "sink", "growing", "grows", "grow"),
            *("becoming", "shrinking", "shrinks", "shrink"),
        ),
        "VERB",
    ),
    **dict.fromkeys(
        (
            *("sideways", "vertically", "up", "down", "upwards", "downwards", "slowly"),
            *("clockwise", "counterclockwise"),
        ),
        "ADV",
    ),
}


def plural(phrase: str) -> str:
    """The motion phrase for several objects: 'that moves' -> 'that move'."""
    words = phrase.split()
    if words[0] == "that":
        words[1] = words[1].removesuffix("s")
    return " ".join(words).replace("in its place", "in place").replace("around itself", "around")


def sentences() -> list[str]:
    """Every expression that the grammar can make, in a fixed order."""
    phrases = [p for group in (REVERSIBLE, IRREVERSIBLE) for ps in group.values() for p in ps]
    singular, several = [], []
    for shape in (*SHAPES, "object", "one"):
        for colour in ("", *COLOURS):
            singular.append(f"the {colour} {shape}".replace("  ", " "))
            several.append(f"all {colour} {shape}s".replace("  ", " "))
    made = singular + several
    made += [f"{noun} {phrase}" for noun in singular for phrase in phrases]
    made += [f"{noun} {plural(phrase)}" for noun in several for phrase in phrases]
    return made


def part_of_speech(word: str, previous: str) -> str:
    """Universal part of speech of a word after another: 'left' is a noun after 'the' only."""
    if word in ("left", "right") and previous != "the":
        return "ADV"
    return PART_OF_SPEECH[word]
