"""Which captions say left or right. They are wrong for a mirrored picture. No Keras."""

import re

from captioning.words.splitting import TREEBANK, Splitting

_ENGLISH = {"left", "right", "leftmost", "rightmost", "lefthand", "righthand", "left-hand", "right-hand"}
# Parts of words of scripts that no English caption has.
_ELSEWHERE = re.compile(
    # Chinese and Japanese; Korean; Hindi; Arabic; Persian; Hebrew; Russian and Ukrainian; Greek; Thai
    "[左右]|왼|오른|बा[ईए][ँं]|बाय[ािीे]?[ंँ]|दा[ईए][ँं]|दाय[ािीे]?[ंँ]|दाहिन|يسار|يمين|چپ|راست|שמאל|ימין|"
    "(?i:лев|лів|слева|справа|прав|αριστερ|δεξι)|ซ้าย|ขวา"
)
# Words that English has too, in other meanings: of German, French, Spanish, Portuguese, Italian, Dutch, Polish,
# Turkish, Vietnamese and Indonesian.
_LATIN = re.compile(
    r"\b(?:links?|linke[nmrs]?|rechts?|rechte[nmrs]?|gauche|droite?|izquierd[ao]s?|derech[ao]s?|esquerd[ao]s?|direit[ao]s?|"
    r"sinistr[aoie]|destr[aoie]|lew[oaeyją]\w*|praw[oaeyją]\w*|sol(?:da|dan|daki|u|un|unda|undaki)?|sağ\w*|trái|phải|kiri|kanan)\b",
    re.IGNORECASE,
)


def names_sides(caption: str, splitting: Splitting) -> bool:
    """Whether ``caption`` says left or right, or what may mean that in another language.

    Captions that are split by ``TREEBANK`` are English, or in a script that English does not use.
    """
    if not _ENGLISH.isdisjoint(TREEBANK.split(caption)):
        return True
    if not caption.isascii() and _ELSEWHERE.search(caption):
        return True
    return splitting is not TREEBANK and bool(_LATIN.search(caption))
