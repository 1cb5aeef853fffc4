"""Scores of captions: BLEU, ROUGE-L, CIDEr, what exposes a bad model, and how sure one can be. No Keras, no Java.

Everything takes captions as strings, split by ``text.tokenize``, or as lists of words that another tokeniser has split.
``references[i]`` are all references of ``predictions[i]``. All scores are times 100, and the arithmetic is that of
pycocoevalcap 1.2, the evaluation that published captioning results come from (``tools/metric_parity.py`` compares).

Which CIDEr? Papers that report "CIDEr" ran the class ``Cider`` of that evaluation, and it computes CIDEr-D: counts
clipped to the reference's and a Gaussian penalty on the difference in length. So ``cider_d`` is the number to compare
with papers; ``cider`` is the plain measure of Vedantam et al. (2015), without either and without their stemming.

METEOR, SPICE and the Stanford tokeniser are Java programs: ``metrics.java``, an optional extra.
"""

from captioning.metrics.bleu_rouge import PROTOCOLS, bleu, rouge_l, sentence_bleu
from captioning.metrics.cider import Cider, cider, cider_d
from captioning.metrics.diagnostics import FUNCTION_WORDS, by_reference_length, statistics
from captioning.metrics.references import Caption, words
from captioning.metrics.significance import compare, image_statistics, intervals, summary

__all__ = [
    "FUNCTION_WORDS",
    "PROTOCOLS",
    "Caption",
    "Cider",
    "bleu",
    "by_reference_length",
    "cider",
    "cider_d",
    "compare",
    "image_statistics",
    "intervals",
    "rouge_l",
    "sentence_bleu",
    "statistics",
    "summary",
    "words",
]
