"""Captions with several references, for tests of metrics."""

PREDICTIONS = [
    "a brown dog runs through the grass",
    "two men are playing football on a field",
    "a little girl in a pink dress",
    "a man rides a wave on his surfboard .",
    "the the the the the",
]


REFERENCES = [
    (
        "A brown dog is running through the tall grass .",
        "The dog runs through the grass , its tongue out .",
        "Brown dog running",
    ),
    (
        "Two football players tackle each other on a field .",
        "Two men are playing a game of football .",
        "Men play football on a muddy field",
    ),
    (
        "A child in a pink dress is climbing up a set of stairs in an entry way .",
        "A girl going into a wooden building .",
        "A little girl climbing into a wooden playhouse .",
    ),
    ("A man is surfing .", "A surfer rides a big wave on the man's yellow surfboard !"),
    ("The cat sits on the mat .", "There is a cat on the mat"),
]
