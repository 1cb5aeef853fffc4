"""The objects that MS-COCO's annotations outline in its pictures: ``instances_{train,val}YEAR.json``.

They come with the captions, in annotations_trainval2014.zip and annotations_trainval2017.zip. CHAIR counts outlined
objects as there (``metrics.chair``). Lin et al. (2014), https://arxiv.org/abs/1405.0312
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import FailFast

from captioning.base.errors import UserError
from captioning.data.coco import annotations_path
from captioning.data.files import read_json
from captioning.data.records import ImageRecord


# The part of the file that is read.
@dataclass(slots=True)
class _Category:
    id: int
    name: str


@dataclass(slots=True)
class _Annotation:
    image_id: int
    category_id: int


@dataclass(slots=True)
class _Instances:
    categories: Annotated[list[_Category], FailFast()]
    annotations: Annotated[list[_Annotation], FailFast()]


_EXPECTED = 'COCO\'s instances, {"categories": [{"id": 18, "name": "dog"}], "annotations": [{"image_id": 1, "category_id": 18}]}'


def outlined_objects(data_dir: Path, subset: str, records: Sequence[ImageRecord]) -> list[frozenset[str]] | None:
    """The classes of the outlined objects of each record, or None if the annotations are not at hand.

    ``subset``: the official subset of the records, such as val2014. The file is ``instances_SUBSET.json`` in
    ``data_dir`` or in its folder annotations. Raises UserError if it is damaged or of other images.
    """
    path = annotations_path(data_dir, f"instances_{subset}.json")
    if not path.is_file():
        return None
    found = read_json(path, _Instances, _EXPECTED)
    names = {category.id: category.name for category in found.categories}
    classes: dict[int, set[str]] = defaultdict(set)
    for annotation in found.annotations:
        if annotation.category_id not in names:
            raise UserError(
                f"{path}: category_id {annotation.category_id} of image {annotation.image_id} is none of its "
                "categories; fetch the file again"
            )
        classes[annotation.image_id].add(names[annotation.category_id])
    if records and not any(record.image_id in classes for record in records):
        raise UserError(f"{path}: has no object of any of these images; put the file of {subset} there, or none")
    return [frozenset(classes.get(record.image_id, ())) for record in records]
