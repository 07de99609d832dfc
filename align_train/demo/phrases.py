"""The demo's alt-texts: what people might write under its pictures, and what the web has there instead.

What: `clean_caption` tells a scene's colour and shape, in varied words, and at random its size, place, count and background.
`noisy_caption` is what alt-text often is: another picture's caption, a file name, boilerplate, a caption cut short. `caption`
mixes the two in a given share. `TEMPLATES` are prompts for zero-shot classification.

How: each word is drawn from a short list in which the plain word is the likeliest; a synonym is always true of what it
stands for. Background words never name one of the eight colours, so that a colour word is about the object.

Cost: about 3 microseconds a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from align_train.demo.draw import Scene, sample_scene

TEMPLATES: tuple[str, ...] = (
    "{}",
    "a {}",
    "a photo of a {}",
    "a picture of a {}",
    "stock image of a {}",
    "a {} on a textured background",
)

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
_WRONG, _FILE_NAME, _STOCK, _CUT = 0.4, 0.2, 0.25, 0.15  # shares of each sort of noise


def caption(scene: Scene, random: Random, *, noise: float) -> str:
    """Alt-text of a scene: noise with this probability, else a clean caption."""
    return noisy_caption(scene, random) if random.random() < noise else clean_caption(scene, random)


def clean_caption(scene: Scene, random: Random) -> str:
    """A true caption with the scene's colour and shape: `photo of a small red ring on a striped backdrop`."""
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
    """Alt-text that says something else, nothing, or too little about the scene."""
    sort = random.choices(
        (_wrong, _file_name, _boilerplate, _cut_short), (_WRONG, _FILE_NAME, _STOCK, _CUT)
    )[0]
    return sort(scene, random)


def _wrong(scene: Scene, random: Random) -> str:
    """The caption of another scene, of any class but this one's."""
    other = sample_scene(random)
    while other.label == scene.label:
        other = sample_scene(random)
    return clean_caption(other, random)


def _file_name(scene: Scene, random: Random) -> str:
    number = random.randrange(10_000)
    hint = random.choice(
        (scene.colour, scene.shape, "final", "copy")
    )  # some names do tell a little
    return random.choice(
        (
            f"IMG_{number:04}.JPG",
            f"dsc{number:05}-{hint}",
            f"DSC_{number:04}.jpeg",
            f"image{number % 100}.png",
            f"{hint}_{number % 1000}x{number % 700}.webp",
            f"untitled-{number % 10}",
            f"screenshot {2010 + number % 15}-{1 + number % 12:02}-{1 + number % 28:02}",
        )
    )


def _boilerplate(scene: Scene, random: Random) -> str:
    return random.choice(_BOILERPLATE)


def _cut_short(scene: Scene, random: Random) -> str:
    """A true caption broken off somewhere in its first half, most often before all is said."""
    whole = clean_caption(scene, random)
    return whole[: random.randint(4, max(5, len(whole) // 2))].rstrip() + random.choice(
        ("...", "…", "")
    )


def _either(random: Random, plain: str, synonyms: Sequence[str]) -> str:
    return plain if random.random() < _PLAIN else random.choice(synonyms)


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def _counted(scene: Scene, words: str, random: Random) -> str:
    """With an article or a number, as the count asks, or with neither."""
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
    """Where the objects are; only a single one off the middle has a side."""
    item = scene.items[0]
    if scene.count > 1:
        return random.choice(("side by side", "next to each other", "together"))
    across = "left" if item.x < 0.42 else "right" if item.x > 0.58 else ""
    down = "top" if item.y < 0.42 else "bottom" if item.y > 0.58 else ""
    if not across and not down:
        return random.choice(("in the middle", "in the centre"))
    if across and down:
        return random.choice((f"in the {down} {across} corner", f"at the {down} {across}"))
    return f"on the {across}" if across else f"at the {down}"


def _background_words(scene: Scene, random: Random) -> str:
    texture = random.choice((*_TEXTURE_WORDS[scene.background.texture], "textured"))
    brightness = (sum(scene.background.first) + sum(scene.background.second)) / 6
    tone = "light " if brightness > 150 else "dark " if brightness < 115 else ""
    tone = tone if random.random() < 0.4 else ""
    article = random.choice(("a ", "a ", ""))
    return f"{random.choice(('on', 'against'))} {article}{tone}{texture} {random.choice(_GROUNDS)}"
