"""Keywords for photo programs: the things and places that a caption names.

They are the 80 classes of MS-COCO's objects, by the words that CHAIR knows for each (``metrics.chair``), and further
nouns that captioners often use. A fixed list needs no tagger, and a word that it lacks gives no keyword. All words for
people give "person", because captioners often err about sex and age.
"""

from functools import cache
from itertools import pairwise

from captioning.metrics.chair import Phrases, class_names, plurals
from captioning.words.tokenizer import tokenize

# Nouns that our captioners used most often on the dev and test splits of Flickr8k and MS-COCO, without clothes and
# parts of bodies, and others of their kind.
_NOUNS = """
airport alley backyard balcony barn bathroom beach bedroom bridge building castle church city classroom courtyard crowd
desert dock farm field forest fountain garden gym harbor highway hill hotel house kitchen lake lawn library market
mountain museum ocean office park path pier playground pond pool porch railroad restaurant river road room school sea
shore sidewalk stadium stage stairs station store street subway swamp tarmac temple tent tower town trail tunnel village
waterfall yard zoo
bubble cliff cloud fire fireworks flower fog grass ice leaf leaves log mist moon mud puddle rain rainbow rock sand sky
snow sun sunrise sunset tree water wave
bag basket blanket bread camera camel candle cheese christmas cigarette coffee curtain fence fish flag food fruit guitar
hat helmet instrument lamp leash machine mirror monkey parade piano plate raft rope salad sculpture sign sled soup statue
sunglasses swing toy tractor trampoline vegetable violin wagon wall wedding wheelchair window
baseball basketball football golf hockey karate rugby skiing soccer surfing swimming tennis volleyball wrestling
"""
_PHRASES = {
    "ice cream": "ice cream",
    "living room": "living room",
    "parking lot": "parking lot",
    "christmas tree": "christmas tree",
    "baseball field": "baseball",
    "woods": "forest",
    "leaves": "leaf",
    "harbour": "harbor",
    "surfer": "person",
    "swimmer": "person",
    "climber": "person",
    "runner": "person",
    "soccer player": "person",
    "rock climbing": "climbing",
}
# Words of CHAIR that name another thing in most captions: "male" is said of animals, a "bow" is a part of a boat.
_MISLEADING = ("male", "female", "bow", "bows", "seat", "seats", "notebook", "container", "turkey", "sub", "patient")
_SHORTER = {"dining table": "table", "sports ball": "ball"}  # also of a desk, and of any ball
# Words before which "orange" is the fruit. Before others it is a colour.
_AFTER_FRUIT = ("and", "on", "in", "with", "next", "is", "of", "at", "or", "near", "from", "sitting", "that", "")


def keywords_of(caption: str) -> list[str]:
    """The keywords of ``caption``, in the order in which it names them, each once.

    >>> keywords_of("two men in orange shirts play with a dog on the beach")
    ['person', 'dog', 'beach']
    """
    tokens = tokenize(caption)
    followed = pairwise([*tokens, ""])
    tokens = [token for token, after in followed if token != "orange" or after in _AFTER_FRUIT]
    return list(dict.fromkeys(kind for _, kind in _phrases().find(tokens) if kind))


@cache
def _phrases() -> Phrases:
    """The keyword of each word or phrase."""
    names = {name: _SHORTER.get(kind, kind) for name, kind in class_names().items() if name not in _MISLEADING}
    for noun in _NOUNS.split():
        names |= {noun: noun} | dict.fromkeys(plurals(noun), noun)
    for phrase, keyword in _PHRASES.items():
        names |= {phrase: keyword} | dict.fromkeys(plurals(phrase), keyword)
    return Phrases(names)
