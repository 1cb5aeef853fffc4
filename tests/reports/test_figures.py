"""Figures: the colours lie where the decoder looked, on one scale, and no picture is overwritten."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from captioning.base.errors import UserError
from captioning.data import scenes as demo
from captioning.pictures.loading import UnreadableImage
from captioning.reports import figures


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The file of a rendered scene."""
    folder = tmp_path_factory.mktemp("scene")
    demo.ensure(folder, 20, 0)
    return next(iter(sorted(folder.glob("images/*.jpg"))))


def looking_at(*places: int, side: int = 3) -> np.ndarray:
    """Weights (T, side * side) of which half lies on one region, the rest evenly on the others."""
    weights = np.full((len(places), side * side), 0.5 / (side * side - 1))
    weights[range(len(places)), places] = 0.5
    return weights


def panels(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.images and axes.get_title()]


def test_each_word_shows_where_the_decoder_looked(scene):
    picture = figures.read_picture(scene, 120).resize((120, 60))
    figure = figures.attention_maps(picture, ["a", "red", "ball"], looking_at(2, 3, 7), 3)
    assert [axes.get_title() for axes in panels(figure)] == ["a", "red", "ball"]
    # Regions count row by row from the upper left; the grid covers the picture whatever its proportions.
    for axes, (row, column) in zip(panels(figure), [(0, 2), (1, 0), (2, 1)], strict=True):
        heat = axes.images[1].get_array()
        assert heat.shape == (60, 120)
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert (y // 20, x // 40) == (row, column)


def test_all_words_share_one_scale_and_it_is_stated(scene):
    picture = figures.read_picture(scene, 60)
    weights = np.concatenate([looking_at(0), np.full((1, 9), 1 / 9)])
    figure = figures.attention_maps(picture, ["dog", "of"], weights, 3)
    assert {axes.images[1].get_clim() for axes in panels(figure)} == {(0, 0.5)}
    assert any("one of 9 regions (evenly spread: 11.1%)" in axes.get_xlabel() for axes in figure.axes)


def test_what_the_sentinel_leaves_for_the_image_is_written_below_the_word(scene, tmp_path):
    weights = np.hstack([looking_at(0, 4) * [[0.83], [0.1]], [[0.17], [0.9]]])
    # Words may hold what matplotlib would take for mathematics.
    figure = figures.attention_maps(figures.read_picture(scene, 60), ["cat", "$x_{$"], weights, 3)
    assert [axes.texts[0].get_text() for axes in panels(figure)] == [
        "looks at the image: 83%",
        "looks at the image: 10%",
    ]
    for axes, peak in zip(panels(figure), (0.415, 0.05), strict=True):
        assert 0.95 * peak < axes.images[1].get_array().max() <= peak + 1e-6
    assert figures.save(figure, tmp_path, "a.jpg").stat().st_size > 0


def test_many_words_stand_in_several_rows(scene):
    words = [f"word{i}" for i in range(17)]
    figure = figures.attention_maps(figures.read_picture(scene, 60), words, looking_at(*[1] * 17), 3)
    assert [axes.get_title() for axes in panels(figure)] == words
    assert {axes.get_subplotspec().get_gridspec().get_geometry() for axes in panels(figure)} == {(3, 6)}


def test_regions_that_are_no_square_cannot_be_drawn():
    assert figures.grid_side(49) == 7
    with pytest.raises(UserError, match="8 regions are not a square grid"):
        figures.grid_side(8)


def test_no_figure_is_overwritten(tmp_path):
    sources = ["photos/a.jpg", "https://example.org/a.jpg?size=2", "a.png", "https://example.org/"]
    names = [figures.save(Figure((1, 1)), tmp_path / "new", source).name for source in sources]
    assert names == ["a.png", "a-2.png", "a-3.png", "example.png"]


def test_pictures_are_read_upright_and_small(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGBA", (300, 100), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (300, 100), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert figures.read_picture(tmp_path / "turned.jpg", 150).size == (50, 150)
    clear = figures.read_picture(tmp_path / "clear.png", 1000)
    assert (clear.size, clear.getpixel((0, 0))) == ((300, 100), (255, 255, 255))
    (tmp_path / "bad.jpg").write_text("text")
    with pytest.raises(UnreadableImage, match=r"bad\.jpg: cannot be read"):
        figures.read_picture(tmp_path / "bad.jpg", 100)


def test_boxes_are_drawn_where_a_word_looked():
    """In the picture's own scale; the box with most of the attention is the brightest."""
    picture = Image.new("RGB", (60, 40), (200, 200, 200))
    boxes = np.array([[0, 0, 300, 400], [300, 0, 600, 400]], "float32")  # the left and the right half of 600 x 400
    weights = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])  # the last column is a sentinel's
    figure = figures.attention_boxes(picture, ["dog", "$x"], weights, boxes, (600, 400))
    shown, dog, other = figure.axes
    assert (shown.get_title(), dog.get_title(), other.get_title()) == ("2 regions", "dog 70%", "$x 80%")
    for panel, bright, dark in ((dog, 10, 50), (other, 50, 10)):
        pixels = panel.images[0].get_array()
        assert pixels[20, bright].max() > 1.5 * pixels[20, dark].max()
        first = panel.patches[-1]
        assert (first.get_x(), first.get_width(), first.get_height()) == (0 if bright == 10 else 30, 30, 40)
        assert first.get_linewidth() == 2.2
