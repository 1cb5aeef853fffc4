"""samples.txt holds the samples of each epoch once."""

from captioning.training.epoch_log import add_samples, show_epoch


def test_samples_of_an_epoch_that_is_repeated_are_replaced(tmp_path):
    for epoch, text in ((1, "a dog"), (2, "a cat"), (10, "a bird")):
        add_samples(tmp_path, epoch, [("x.jpg", text), ("y.jpg", "epoch 2")])
    add_samples(tmp_path, 10, [("x.jpg", "a horse"), ("caf\udce9.jpg", "é")])
    assert (tmp_path / "samples.txt").read_text(encoding="utf-8") == (
        "epoch 1\n    x.jpg: a dog\n    y.jpg: epoch 2\nepoch 2\n    x.jpg: a cat\n    y.jpg: epoch 2\n"
        "epoch 10\n    x.jpg: a horse\n    caf\\udce9.jpg: é\n"
    )
    add_samples(tmp_path, 1, [])
    assert (tmp_path / "samples.txt").read_text() == "epoch 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["samples.txt"]


def test_what_a_terminal_would_obey_is_shown_as_escapes(capsys):
    line = {"epoch": 1, "words_per_second": 10.0, "seconds": 2.0}
    show_epoch(line, 3, "loss 1.0", (), [("a\x1b[2J.jpg", "a dog\x9b2J")])
    assert capsys.readouterr().out == ("epoch 1/3: loss 1.0, 10 words/s, 2 s\n    a\\x1b[2J.jpg: a dog\\x9b2J\n")
