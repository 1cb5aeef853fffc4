"""samples.txt holds the samples of each epoch once."""

from captioning.training.epoch_log import add_samples


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
