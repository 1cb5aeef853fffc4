"""Captions as text alone: what other programs leave in them is taken out.

    <start> a dog runs <end>            signs of the start and the end, also as <s>, [CLS] or startseq
    cats &amp; dogs                     characters written as in HTML
    a dog<br>on grass, <b>wet</b>       tags of HTML
    a dog\\n                            line breaks written as a backslash and a letter

A sign such as "<" alone, or a word in brackets that is none of these, stays.
"""

import html
import re

_SUSPECT = re.compile(r"[<\[&\\]|seq", re.I)
_TOKENS = "start|end|startseq|endseq|sos|eos|bos|s|pad|cls|sep|begin|stop"
_SIGNS = re.compile(
    rf"<\|?/?(?:{_TOKENS}|startoftext|endoftext|im_start|im_end)\|?>|\[/?(?:CLS|SEP|PAD|BOS|EOS|SOS)\]", re.I
)
_WORDS = re.compile(r"^\s*(?:startseq|<?startofseq>?)\b|\b(?:endseq|<?endofseq>?)\s*$", re.I)
_ENTITY = re.compile(r"&(?:[a-zA-Z][a-zA-Z0-9]{1,31}|#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});")
_TAG = re.compile(
    r"</?(?:a|b|br|i|u|p|em|strong|span|div|font|li|ul|ol|sub|sup|small|img|hr|h[1-6])(?:\s[^<>]*)?/?>", re.I
)
_BREAK = re.compile(r"\\[ntr](?![a-z])|\\[ntr](?=[A-Z])")


def clean(caption: str) -> str:
    """``caption`` without markup; the same text if it has none.

    >>> clean("<start> cats &amp; dogs<br/>run . <end>")
    'cats & dogs run .'
    """
    if not _SUSPECT.search(caption):
        return caption  # nearly all
    text = caption
    if _ENTITY.search(text):
        text = html.unescape(html.unescape(text))  # some were written twice: &amp;quot;
    text = _BREAK.sub(" ", _TAG.sub(" ", _WORDS.sub(" ", _SIGNS.sub(" ", text))))
    return caption if text == caption else " ".join(text.split())
