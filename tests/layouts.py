"""Small data sets in the layouts that people have, written file by file."""

import json
import zipfile
from pathlib import Path

from captioning.data.records import CaptionDataset

TOKENS = "Flickr8k.token.txt"


def flickr8k_files() -> dict[str, str]:
    """Contents by path of a small Flickr8k: six images a..f, two captions each; f is in no split."""
    files = {f"Flicker8k_Dataset/{name}.jpg": name for name in "abcdef"}
    files[TOKENS] = "".join(f"{name}.jpg#{k}\tcaption {k} of {name} .\n" for name in "fedcba" for k in (0, 1))
    files["Flickr_8k.trainImages.txt"] = "c.jpg\na.jpg\nb.jpg\n"
    files["Flickr_8k.devImages.txt"] = "d.jpg\n"
    files["Flickr_8k.testImages.txt"] = "e.jpg\n"
    return files


def write_files(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def pack(archive: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(archive, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)


def names(records) -> list[str]:
    return [record.file_name for record in records]


def warning(dataset: CaptionDataset, text: str) -> str:
    (found,) = [line for line in dataset.warnings if text in line]
    return found


TRAIN, VAL = (3, 25, 50, 51, 1000), (7, 75, 80)  # ids of COCO's images


def captions_file(*ids: int, prefix: str = "") -> dict:
    """The content of a captions file for images of these ids, two captions each, in no order."""
    return {
        "info": {"year": 2017},
        "images": [{"id": i, "file_name": f"{prefix}{i:012d}.jpg", "license": 4, "height": 9} for i in ids[::-1]],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "caption": f"caption {k} of {i} "} for k in (0, 1) for i in ids
        ],
    }


def coco_files(year: str = "2017", changes: dict | None = None) -> dict[str, str]:
    """Contents by path of a small COCO; ``changes``: other contents of captions files, by part."""
    files = {}
    for part, ids in (("train", TRAIN), ("val", VAL)):
        prefix = f"COCO_{part}{year}_" * (year == "2014")
        files |= {f"{part}{year}/{prefix}{i:012d}.jpg": f"pixels of {i}" for i in ids}
        content = (changes or {}).get(part, captions_file(*ids, prefix=prefix))
        files[f"annotations/captions_{part}{year}.json"] = json.dumps(content)
    return files


def karpathy_image(name: str, split: str, *captions: str, **more) -> dict:
    sentences = [{"raw": caption, "tokens": caption.split(), "sentid": i} for i, caption in enumerate(captions)]
    return {"filename": name, "split": split, "sentences": sentences, "imgid": 0, "sentids": [0], **more}
