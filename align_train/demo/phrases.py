"""The demo's alt-texts: true captions, and the noise that the web has in their place.

`clean_caption` names a scene's colour and shape, in varied words, and at random its size, place,
count and background. `noisy_caption` is what alt-text often is: another image's caption, a file
name, boilerplate, a caption cut short. `caption` mixes the two in a given share.

Each word is drawn from a short list in which the plain word is the likeliest. A synonym is always
true of what it stands for. Background words never name one of the eight colours, so that a colour
word is about the object. As in `scene.py`, the order of the draws is part of the demo.

Price: about 3 microseconds a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from align_train.demo.scene import Scene, sample_scene

_PLAIN = 0.7  # how often the plain word is taken rather than a synonym

_COLOUR_SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("crimson", "scarlet", "bright red"),
    "orange": ("tangerine", "bright orange"),
    "yellow": ("lemon", "golden yellow"),
    "green": ("emerald", "grass green"),
    "blue": ("azure", "royal blue"),
    "purple": ("violet", "deep purple"),
    "white": ("snow white", "ivory"),
    "black": ("jet black", "pitch black"),
}
_SHAPE_SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "dot"),
    "square": ("box",),
    "triangle": ("pyramid",),
    "star": ("five-pointed star",),
    "cross": ("plus sign",),
    "heart": ("love heart",),
    "ring": ("hoop", "donut"),
    "crescent": ("moon", "crescent moon"),
}
_TEXTURE_WORDS: dict[str, tuple[str, ...]] = {
    "noise": ("noisy", "mottled", "rough"),
    "stripes": ("striped", "lined"),
    "checks": ("checked", "chequered"),
    "gradient": ("smooth", "fading"),
    "blobs": ("blotchy", "camouflage"),
    "dots": ("dotted", "spotted"),
}
_GROUNDS = ("background", "backdrop", "wallpaper", "surface")
_OPENINGS = (
    "photo of",
    "picture of",
    "image of",
    "stock image of",
    "drawing of",
    "clip art:",
    "close-up of",
    "my",
    "look,",
)
_ENDINGS = (
    "stock photo",
    "clip art",
    "vector",
    "image",
    "icon",
    "picture",
    "for sale",
    "art print",
    "| free download",
)
_COUNTS: dict[int, tuple[str, ...]] = {
    1: ("one", "a single"),
    2: ("two", "a pair of", "2"),
    3: ("three", "a group of", "3"),
}
_BOILERPLATE = (
    "click to enlarge",
    "click here to view the full size picture",
    "free shipping on all orders",
    "image may contain copyrighted material",
    "no description available",
    "buy now and save 20 %",
    "share on social media",
    "sign up for our newsletter",
    "photo by the author",
    "all rights reserved",
    "add to basket",
    "loading, please wait",
    "thumbnail",
    "see more pictures in this gallery",
    "advertisement",
    "our summer collection is here",
)

# The share of each sort of noise.
_WRONG = 0.4
_FILE_NAME = 0.2
_STOCK = 0.25
_CUT = 0.15


def caption(scene: Scene, random: Random, *, noise: float) -> str:
    """Returns the alt-text of a scene.

    Args:
        scene: The scene.
        random: Decides the words.
        noise: Share of texts that are noise, not a clean caption.
    """
    if random.random() < noise:
        return noisy_caption(scene, random)
    return clean_caption(scene, random)


def clean_caption(scene: Scene, random: Random) -> str:
    """Returns a true caption: `photo of a small red ring on a striped backdrop`.

    It always has the scene's colour and shape, perhaps as synonyms.
    """
    # The colour and the shape come always, everything else by chance.
    colour = _either(random, scene.colour, _COLOUR_SYNONYMS[scene.colour])
    shape = _either(random, scene.shape, _SHAPE_SYNONYMS[scene.shape])
    noun = shape if scene.count == 1 else _plural(shape)
    if random.random() < 0.1:
        words = f"{noun} in {colour}"
    else:
        size = _size_word(scene, random) if random.random() < 0.35 else ""
        words = f"{size} {colour} {noun}".strip()

    words = _counted(scene, words, random)
    if random.random() < 0.25:
        words += f" {_place_words(scene, random)}"
    if random.random() < 0.35:
        words += f" {_background_words(scene, random)}"

    filler = random.random()
    if filler < 0.35:
        words = f"{random.choice(_OPENINGS)} {words}"
    elif filler < 0.6:
        words = f"{words} {random.choice(_ENDINGS)}"
    return words.capitalize() if random.random() < 0.3 else words


def noisy_caption(scene: Scene, random: Random) -> str:
    """Returns alt-text that says something else, nothing, or too little about the scene."""
    sorts = (_wrong, _file_name, _boilerplate, _cut_short)
    sort = random.choices(sorts, (_WRONG, _FILE_NAME, _STOCK, _CUT))[0]
    return sort(scene, random)


def _wrong(scene: Scene, random: Random) -> str:
    """Returns the caption of another scene, of any class but this one's."""
    other = sample_scene(random)
    while other.label == scene.label:
        other = sample_scene(random)
    return clean_caption(other, random)


def _file_name(scene: Scene, random: Random) -> str:
    number = random.randrange(10_000)
    # Some names do tell a little.
    hint = random.choice((scene.colour, scene.shape, "final", "copy"))
    names = (
        f"IMG_{number:04}.JPG",
        f"dsc{number:05}-{hint}",
        f"DSC_{number:04}.jpeg",
        f"image{number % 100}.png",
        f"{hint}_{number % 1000}x{number % 700}.webp",
        f"untitled-{number % 10}",
        f"screenshot {2010 + number % 15}-{1 + number % 12:02}-{1 + number % 28:02}",
    )
    return random.choice(names)


def _boilerplate(scene: Scene, random: Random) -> str:
    return random.choice(_BOILERPLATE)


def _cut_short(scene: Scene, random: Random) -> str:
    """Returns a true caption broken off in its first half, most often before all is said."""
    whole = clean_caption(scene, random)
    length = random.randint(4, max(5, len(whole) // 2))
    return whole[:length].rstrip() + random.choice(("...", "…", ""))


def _either(random: Random, plain: str, synonyms: Sequence[str]) -> str:
    return plain if random.random() < _PLAIN else random.choice(synonyms)


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def _counted(scene: Scene, words: str, random: Random) -> str:
    """Adds an article or a number, as the count asks; sometimes neither."""
    if random.random() < 0.15:
        return words
    if scene.count > 1 or random.random() < 0.1:
        return f"{random.choice(_COUNTS[scene.count])} {words}"
    if random.random() < 0.15:
        return f"the {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _size_word(scene: Scene, random: Random) -> str:
    radius = scene.items[0].radius
    if radius < 0.23:
        return random.choice(("small", "little", "tiny"))
    if radius > 0.33:
        return random.choice(("big", "large", "huge"))
    return random.choice(("medium", "mid-sized"))


def _place_words(scene: Scene, random: Random) -> str:
    """Says where the objects are."""
    # Several objects lie everywhere: they have no side.
    if scene.count > 1:
        return random.choice(("side by side", "next to each other", "together"))

    item = scene.items[0]
    across = "left" if item.x < 0.42 else "right" if item.x > 0.58 else ""
    down = "top" if item.y < 0.42 else "bottom" if item.y > 0.58 else ""
    if not across and not down:
        return random.choice(("in the middle", "in the centre"))
    if across and down:
        return random.choice((f"in the {down} {across} corner", f"at the {down} {across}"))
    return f"on the {across}" if across else f"at the {down}"


def _background_words(scene: Scene, random: Random) -> str:
    background = scene.background
    # "textured" is always true, and tells the least.
    texture = random.choice((*_TEXTURE_WORDS[background.texture], "textured"))
    brightness = (sum(background.first) + sum(background.second)) / 6  # of 255
    tone = "light " if brightness > 150 else "dark " if brightness < 115 else ""
    # Drawn even without a tone: the draws that follow must not depend on the brightness.
    if random.random() >= 0.4:
        tone = ""
    article = random.choice(("a ", "a ", ""))
    preposition = random.choice(("on", "against"))
    return f"{preposition} {article}{tone}{texture} {random.choice(_GROUNDS)}"
