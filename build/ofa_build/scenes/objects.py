"""What scenes are made of: the drawable objects, their English names and their main colours."""

from __future__ import annotations

from dataclasses import dataclass

COUNT_WORDS = {2: "two", 3: "three", 4: "four"}


def with_article(words: str) -> str:
    """Put the article before: ``"a red apple"``, ``"an owl"``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class SceneObject:
    """One emoji that scenes may show.

    ``tint`` is the main colour of its art, which a background must not share. ``colour`` is the adjective its captions
    carry, set only for nouns that exist in several colours.
    """

    codepoint: int
    noun: str
    plural: str
    tint: str
    colour: str | None = None

    @property
    def label(self) -> str:
        """The name without a count: ``"red apple"`` or ``"dog"``; unique among the objects."""
        return f"{self.colour} {self.noun}" if self.colour else self.noun

    def phrase(self, count: int) -> str:
        """Name ``count`` of these: ``"a red apple"``, ``"two red apples"``."""
        if count == 1:
            return with_article(self.label)
        adjective = f"{self.colour} " if self.colour else ""
        return f"{COUNT_WORDS[count]} {adjective}{self.plural}"


_COLOURED = {
    "heart": {
        "red": 0x2764, "orange": 0x1F9E1, "yellow": 0x1F49B, "green": 0x1F49A, "blue": 0x1F499,
        "purple": 0x1F49C, "brown": 0x1F90E, "black": 0x1F5A4, "white": 0x1F90D,
    },
    "circle": {
        "red": 0x1F534, "orange": 0x1F7E0, "yellow": 0x1F7E1, "green": 0x1F7E2, "blue": 0x1F535,
        "purple": 0x1F7E3, "brown": 0x1F7E4, "black": 0x26AB, "white": 0x26AA,
    },
    "square": {
        "red": 0x1F7E5, "orange": 0x1F7E7, "yellow": 0x1F7E8, "green": 0x1F7E9, "blue": 0x1F7E6,
        "purple": 0x1F7EA, "brown": 0x1F7EB, "black": 0x2B1B, "white": 0x2B1C,
    },
    "book": {"red": 0x1F4D5, "green": 0x1F4D7, "blue": 0x1F4D8, "orange": 0x1F4D9},
    "apple": {"red": 0x1F34E, "green": 0x1F34F},
}  # fmt: skip

_PLAIN = """
1f436 dog dogs brown
1f431 cat cats yellow
1f437 pig pigs pink
1f438 frog frogs green
1f43c panda pandas white
1f430 rabbit rabbits grey
1f427 penguin penguins black
1f989 owl owls brown
1f419 octopus octopuses purple
1f41f fish fish blue
1f980 crab crabs red
1f40c snail snails orange
1f98b butterfly butterflies blue
1f41e ladybird ladybirds red
1f422 turtle turtles green
1f418 elephant elephants grey
1f433 whale whales blue
1f355 pizza pizzas yellow
1f369 doughnut doughnuts brown
1f34c banana bananas yellow
1f353 strawberry strawberries red
1f349 watermelon watermelons red
1f34d pineapple pineapples yellow
1f955 carrot carrots orange
1f344 mushroom mushrooms red
1f354 hamburger hamburgers brown
1f34b lemon lemons yellow
1f9c1 cupcake cupcakes pink
1f697 car cars red
1f68c bus buses grey
1f6b2 bicycle bicycles grey
1f680 rocket rockets grey
26f5 boat boats white
1f3e0 house houses brown
1f333 tree trees green
1f335 cactus cactuses green
1f33b sunflower sunflowers yellow
2602 umbrella umbrellas purple
1f388 balloon balloons red
1f381 gift gifts yellow
1f451 crown crowns yellow
1f511 key keys yellow
1f514 bell bells yellow
23f0 clock clocks red
1f4f7 camera cameras grey
1f3b8 guitar guitars red
1f941 drum drums red
26bd football footballs white
1f3c0 basketball basketballs orange
1f3c6 trophy trophies yellow
2b50 star stars yellow
2601 cloud clouds white
1f319 moon moons yellow
26c4 snowman snowmen white
1f916 robot robots grey
1f47b ghost ghosts white
1fa91 chair chairs brown
"""


def _objects() -> tuple[SceneObject, ...]:
    coloured = [
        SceneObject(codepoint, noun, f"{noun}s", colour, colour)
        for noun, colours in _COLOURED.items()
        for colour, codepoint in colours.items()
    ]
    rows = [line.split() for line in _PLAIN.strip().splitlines()]
    return (*coloured, *(SceneObject(int(code, 16), noun, plural, tint) for code, noun, plural, tint in rows))


OBJECTS: tuple[SceneObject, ...] = _objects()
"""Every object, in a fixed order: its place here is its class number."""
