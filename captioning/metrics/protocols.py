"""The two protocols that captions are scored by. Never compare a figure of one with a figure of the other.

``coco`` gives every number of this project but one. Its words are those of ``captioning.words.tokenizer``: lower case,
Penn Treebank splitting, no punctuation. For other languages captions may be split in other ways
(``captioning.words.splitting``). Tables then call the protocol ``coco-unicode`` or ``coco-characters``, whose figures
must not be compared with those of ``coco`` either. All references count. The scores are corpus BLEU with uniform
weights (``bleu_rouge``), ROUGE-L (``bleu_rouge``) and CIDEr (``cider``; papers call CIDEr-D CIDEr, and so do our
tables). The arithmetic is that of pycocoevalcap 1.2, the evaluation that published results come from;
``tools/metric_parity.py`` compares the two.

``seed`` is the loose protocol of the historical Keras captioners. It is kept for one comparison and knows BLEU only.
References are split at spaces and keep capitals and the final full stop. Predictions are lower case without
punctuation. So capitals and full stops never match. Both are wrapped in a start and an end token, and these are free
matches. BLEU-3 weighs (.3, .3, .3).

All scores are times 100. The metrics need neither Keras nor Java, except those of ``java``: METEOR, SPICE and the
Stanford tokeniser.
"""

import re
from collections.abc import Sequence

from captioning.metrics.bleu_rouge import bleu_counts, bleu_score
from captioning.words.splitting import TREEBANK

PROTOCOLS = ("coco", "seed")

# The weight of each of the n log precisions in BLEU-n.
_SEED_WEIGHTS = (1, 1 / 2, 0.3, 1 / 4)


def measure(protocol: str, words: str = TREEBANK.name) -> str:
    """What tables and files call ``protocol`` with captions that are split by ``words``, such as "coco-unicode"."""
    return protocol if words == TREEBANK.name else f"{protocol}-{words}"


def seed_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4 of the ``seed`` protocol. ``references[i]`` are all references of ``predictions[i]``."""
    found = [_wrapped(re.sub(r"[^\w\s]", "", prediction.lower())) for prediction in predictions]
    wanted = [[_wrapped(reference) for reference in group] for group in references]
    return bleu_score(bleu_counts(found, wanted).sum(axis=0), _SEED_WEIGHTS).tolist()


def _wrapped(caption: str) -> list[str]:
    return ["startseq", *caption.split(), "endseq"]
