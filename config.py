"""Every setting of the system: its default, its meaning, who reads it, and when it may change. The named presets.

    python config.py                        # print every setting as JSON, after presets and overrides
    python config.py --preset demo --epochs 3
    python config.py --presets              # what each preset is for, how long it takes, what it scores

This module does not import Keras. The backend must be chosen before Keras is first imported, and it is a setting.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from captioning.base.errors import UserError
from captioning.base.settings import (
    ON,
    OneOrMore,
    listed,
    of_each,
    own_fields,
    refusal,
    rules_of,
    setting,
    shown,
    takes_several,
)

ROOT = Path(__file__).parent
# The captioners that come with this repository, and the one that is used when none is named.
PRETRAINED = ROOT / "pretrained"
POCKET = PRETRAINED / "pocket.zip"
# The towers that come with this repository, for searches.
SEARCH = PRETRAINED / "search.zip"

# How to read a declaration (``setting`` in captioning/base/settings.py has the details):
#
#     setting(
#         default,
#         "meaning",
#         only={"decoder": ("merge", "inject")},  # read only with these choices; elsewhere it must be at its default
#         never={"stage": ("align",)},            # not read with these choices; there it must be at its default
#         tolerated=True,                         # where nothing reads it, it may have any value
#         fixed="decoder",                        # what fixes it: "training", "decoder" or "model"
#         resumable=True,                         # train.py --resume may change it
#         ge=1,                                   # bounds: ge, gt, le, lt
#     )

# The decoders. Each name is that of a file in captioning/decoders. A new decoder is added here, to the list of its base
# class: OneVectorDecoder reads the image as one vector, and RegionDecoder looks at regions of it.
OneVectorDecoders = Literal["merge", "inject"]
RegionDecoders = Literal["attention", "adaptive", "transformer", "updown", "aoa", "m2"]
# Those with layers of several attention heads.
_LAYERED = ("transformer", "aoa", "m2")


Layout = Literal[
    "flickr8k",
    "flickr30k",
    "coco",
    "karpathy",
    "demo",
    "folder",
    "kaggle",
    "imagefolder",
    "sidecars",
    "cocostyle",
]
CocoYear = Literal["2014", "2017"]
DemoLanguage = Literal["english", "chinese", "hindi"]
# The layouts that may come without splits, which are then drawn.
_DRAWN = ("folder", "flickr30k", "kaggle", "imagefolder", "sidecars", "cocostyle")


class DataSettings(BaseModel):
    """One data set"""

    dataset: Layout = setting(
        "flickr8k",
        "flickr8k, flickr30k or coco: in the layout of their publishers; karpathy: a Karpathy split file with the "
        "images of one of these; demo: generated scenes; folder: your own images with a captions file; kaggle: "
        "Flickr8k as Kaggle has it; imagefolder: Hugging Face's, with metadata.jsonl or metadata.csv; sidecars: a .txt "
        "file beside each image; cocostyle: a JSON file in COCO's format over any folder. Several data sets are "
        "trained on together. Otherwise they stay apart",
    )
    data_dir: str = setting(
        "",
        "folder of the data set; unset: data/ and its name, such as data/coco. For flickr8k and coco it may hold the "
        "published zip files instead of their contents",
        resumable=True,
    )
    data_weight: float = setting(
        1.0,
        "how often each training caption of the data set is seen in an epoch. 2: twice; 0.5: a random half of the "
        "captions, drawn anew in each epoch",
        le=100,
    )
    captions_file: str | None = setting(
        None,
        "folder: the captions, as .csv (columns image,caption[,split]) or .jsonl; cocostyle: the JSON file, or a folder "
        "of such files, one for each split; karpathy: the split file, such as dataset_coco.json; flickr30k, kaggle: the "
        "split file, if there is one; none: no file",
        only={"dataset": ("folder", "cocostyle", "karpathy", "flickr30k", "kaggle")},
    )
    coco_year: CocoYear = setting(
        "2017",
        "edition of MS-COCO. Both hold the same images, split in different ways",
        only={"dataset": ("coco",)},
        tolerated=True,
    )
    dev_fraction: float = setting(
        0.1,
        "share of the images that is drawn for dev, if the data has no splits",
        only={"dataset": _DRAWN},
        tolerated=True,
        ge=0,
        lt=1,
    )
    test_fraction: float = setting(
        0.1,
        "share of the images that is drawn for test, if the data has no splits",
        only={"dataset": _DRAWN},
        tolerated=True,
        ge=0,
        lt=1,
    )
    split_seed: int = setting(
        0,
        "seed of the draw of dev and test. Whole images are drawn, so no image is in two splits",
        only={"dataset": _DRAWN},
        tolerated=True,
        ge=0,
        le=2**32 - 1,
    )
    demo_images: int = setting(
        1200,
        "number of scenes. Three quarters of them are for training",
        only={"dataset": ("demo",)},
        tolerated=True,
        ge=20,
        le=1_000_000,
    )
    demo_language: DemoLanguage = setting(
        "english",
        "language of the captions of the scenes. With chinese or hindi set words to unicode",
        only={"dataset": ("demo",)},
        tolerated=True,
    )
    download_urls: tuple[str, ...] = setting(
        (),
        "where preprocessing.py --download finds the archives of the data set, comma-separated; unset: where they are "
        "published (see the file of the data set in captioning/data)",
        only={"dataset": ("flickr8k", "coco", "karpathy")},
        tolerated=True,
    )
    download_checksums: tuple[str, ...] = setting(
        (),
        "md5:HEX or sha256:HEX of each archive, in the order of download_urls; unset: the digests are printed, not "
        "checked",
        only={"dataset": ("flickr8k", "coco", "karpathy")},
        tolerated=True,
    )

    @model_validator(mode="after")
    def _check_captions_file(self) -> Self:
        if self.dataset == "folder" and not self.captions_file:
            raise ValueError("captions_file: dataset=folder needs it (a .csv or .jsonl file)")
        if self.dataset == "cocostyle" and not self.captions_file:
            raise ValueError("captions_file: dataset=cocostyle needs it (a .json file in COCO's format)")
        if self.dataset == "karpathy" and not self.captions_file:
            raise ValueError("captions_file: dataset=karpathy needs it (a split file, such as dataset_coco.json)")
        return self

    @model_validator(mode="after")
    def _check_data_weight(self) -> Self:
        if not self.data_weight > 0:
            raise ValueError(
                f"data_weight: {self.data_weight:g} is not above 0; to train without a data set, leave it out of "
                "dataset"
            )
        return self

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError(
                "dev_fraction: with test_fraction it leaves nothing to train on; their sum must be below 1"
            )
        return self

    @model_validator(mode="after")
    def _check_downloads(self) -> Self:
        for checksum in self.download_checksums:
            if not re.fullmatch(r"md5:[0-9a-fA-F]{32}|sha256:[0-9a-fA-F]{64}", checksum):
                raise ValueError(f"download_checksums: {checksum!r} is not md5: or sha256: and that many hex digits")
        if self.download_checksums and len(self.download_checksums) != len(self.download_urls):
            raise ValueError(
                f"download_checksums: {len(self.download_checksums)} for {len(self.download_urls)} download_urls; "
                "give one for each, or none (empty)"
            )
        return self


class MixtureSettings(BaseModel):
    """Data"""

    # DataSettings says what each of these settings means. A tuple holds one value for each data set that reads the
    # setting, in their order. A single value belongs to a single data set.
    dataset: OneOrMore[Layout] = of_each(DataSettings, "dataset")
    data_dir: OneOrMore[str] = of_each(DataSettings, "data_dir")
    data_weight: OneOrMore[float] = of_each(DataSettings, "data_weight")
    captions_file: OneOrMore[str | None] = of_each(DataSettings, "captions_file")
    coco_year: OneOrMore[CocoYear] = of_each(DataSettings, "coco_year")
    dev_fraction: OneOrMore[float] = of_each(DataSettings, "dev_fraction")
    test_fraction: OneOrMore[float] = of_each(DataSettings, "test_fraction")
    split_seed: OneOrMore[int] = of_each(DataSettings, "split_seed")
    demo_images: OneOrMore[int] = of_each(DataSettings, "demo_images")
    demo_language: OneOrMore[DemoLanguage] = of_each(DataSettings, "demo_language")
    # These are lists already, so they belong to a single data set.
    download_urls: tuple[str, ...] = of_each(DataSettings, "download_urls")
    download_checksums: tuple[str, ...] = of_each(DataSettings, "download_checksums")

    @model_validator(mode="after")
    def _check_data_sets(self) -> Self:
        self.data_sets()
        return self

    def data_sets(self) -> list[DataSettings]:
        """The settings of each data set, in order, each with its folder. Raises ValueError that names a setting."""
        layouts = listed(self.dataset)
        found: list[dict[str, Any]] = [{"dataset": layout} for layout in layouts]
        if not found:
            raise ValueError("dataset: names no data set")
        if len(layouts) > 1 and self.download_urls:
            raise ValueError("download_urls: belong to one data set; download the data sets one by one")
        for name in own_fields(MixtureSettings):
            if name != "dataset":
                _share_out(name, getattr(self, name), found)
        data_sets = [_one_data_set(values) for values in found]
        for i, each in enumerate(data_sets):
            if any(each.model_copy(update={"data_weight": other.data_weight}) == other for other in data_sets[:i]):
                raise ValueError(f"dataset: {each.dataset} is named twice; name it once, with a higher data_weight")
        return [each.model_copy(update={"data_dir": each.data_dir or f"data/{each.dataset}"}) for each in data_sets]

    def data_names(self) -> tuple[str, ...]:
        """The name of each data set in tables and files: letters, digits and ``_ . -``. All names differ.

        The name is usually the layout. A folder, and data sets of the same layout, are named after their folder. If its
        name is taken, or only says that it holds images, they are named after their captions file.
        """
        data_sets = self.data_sets()
        layouts = [each.dataset for each in data_sets]
        taken = {TOGETHER, *(layout for layout in layouts if layout != "folder" and layouts.count(layout) == 1)}
        folders = [_plain_name(Path(each.data_dir).resolve().name) for each in data_sets]
        names: list[str] = []
        for each, folder in zip(data_sets, folders, strict=True):
            if each.dataset in taken:
                names.append(each.dataset)
                continue
            name = folder
            says_nothing = folder.lower() in ("", "images") or folder in taken or folders.count(folder) > 1
            if each.captions_file and says_nothing:
                name = _plain_name(Path(each.captions_file).stem)
            numbered = (f"{name}-{number}" for number in count(2))
            names.append(name if name and name not in (*taken, *names) else next(n for n in numbered if n not in names))
        return tuple(names)


# What the mean over several data sets is called in tables.
TOGETHER = "together"


def _plain_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _share_out(name: str, value: Any, data_sets: list[dict[str, Any]]) -> None:
    """Give the values of the setting ``name`` to those of ``data_sets`` that read it. Raises ValueError.

    Each of ``data_sets`` holds its layout under "dataset". A data set that gets none has the default.
    """
    if (len(data_sets) == 1 and not isinstance(value, list | tuple)) or name.startswith("download_"):
        data_sets[0][name] = value
        return
    readers = [each for each in data_sets if _reads(each["dataset"], name)]
    values = listed(value)
    if not readers or (not isinstance(value, list | tuple) and value == DataSettings.model_fields[name].default):
        return
    if len(values) != len(readers):
        raise ValueError(
            f"{name}: {len(values)} given, and {len(readers)} of the data sets read it "
            f"({', '.join(each['dataset'] for each in readers)}); give one for each, in their order"
        )
    for each, own in zip(readers, values, strict=True):
        each[name] = own


def _reads(layout: str, name: str) -> bool:
    """Whether data sets in this layout read the setting ``name``."""
    conditions = rules_of(DataSettings, name).only
    return not conditions or any(layout in condition["dataset"] for condition in conditions)


def settings_of(data_sets: Sequence[DataSettings]) -> dict[str, Any]:
    """The settings of a run with these data sets, as ``MixtureSettings`` holds them."""
    found: dict[str, Any] = {}
    for name in own_fields(MixtureSettings):
        values = [getattr(each, name) for each in data_sets if _reads(each.dataset, name)]
        default = DataSettings.model_fields[name].default
        if name.startswith("download_"):
            found[name] = values[0] if len(data_sets) == len(values) == 1 else default
        else:
            found[name] = values if any(value != default for value in values) or name == "dataset" else default
    return found


def _one_data_set(values: dict[str, Any]) -> DataSettings:
    """The settings ``values`` of one data set. Raises ValueError that names a bad one."""
    try:
        return DataSettings(**values)
    except ValidationError as error:
        item = error.errors()[0]
        if not item["loc"]:
            raise ValueError(item["msg"].removeprefix("Value error, ")) from None
        raise ValueError(f"{item['loc'][0]}: {item['msg']}, got {item['input']!r}") from None


class MachineSettings(BaseModel):
    """Machine and folders"""

    workers: int = setting(2, "threads that read batches", resumable=True, ge=1, le=256)
    run_dir: str = setting("runs", "folder that holds the run folders")
    backend: Literal["", "tensorflow", "jax", "torch"] = setting(
        "",
        "Keras backend; unset: the one that KERAS_BACKEND names, or else the one in ~/.keras/keras.json, or else "
        "tensorflow",
        resumable=True,
    )


# Begins the setting encoder if it names a preset of KerasHub, or a folder that KerasHub can read.
KERASHUB = "kerashub:"


class EncoderSettings(MachineSettings):
    """Encoder and features"""

    features: str = setting(
        "",
        "region features from elsewhere, with any number of regions per image, in place of an encoder: a folder of .npz or "
        ".npy files, an HDF5 file, an LMDB, or tables of bottom-up attention (.tsv). docs/data.md has their layouts",
        resumable=True,
    )
    encoder: str = setting(
        "resnet50",
        "resnet50; another backbone of keras.applications, such as efficientnet_v2b0; efficientnet_lite0 or "
        "efficientnet_lite2, whose weights are in this repository; efficientnet_lite1, whose weights a tool makes; the "
        "path of a Keras model (.keras) that maps RGB images (0-255) to a feature grid; or kerashub:NAME, an image "
        "encoder of KerasHub such as CLIP, SigLIP, DINOv2 or ViT. NAME is a preset, such as clip_vit_base_patch32, or "
        "a folder",
        never={"features": ON},
        fixed="model",
    )
    encoder_weights: str = setting(
        "imagenet",
        "imagenet, none (random weights), or the path of a weights file. A .keras file brings its own weights, and with "
        "kerashub:NAME imagenet means those of the preset",
        never={"features": ON},
        fixed="model",
    )
    image_size: int = setting(
        224,
        "pixels per side to which every image is resized. The weights of efficientnet_lite1 were trained with 240, "
        "those of efficientnet_lite2 with 260. Most transformers of KerasHub take one size only; an error names it",
        never={"features": ON},
        fixed="model",
        ge=32,
        le=1024,
    )
    feature_grid: int = setting(
        1,
        "regions per side, averaged from the encoder's own grid. 1: one vector per image; 0: the encoder's own grid "
        "(7 x 7 for 224 pixels, 9 x 9 for 260)",
        never={"features": ON},
        fixed="model",
        ge=0,
        le=32,
    )
    feature_dtype: Literal["float16", "float32"] = setting(
        "float16", "number format of the stored features", fixed="model"
    )
    feature_dir: str = setting("features", "folder of the feature stores", resumable=True)
    extract_batch_size: int = setting(
        32, "images per batch of the encoder, or of features that are copied from elsewhere", ge=1, le=4096
    )

    @model_validator(mode="after")
    def _check_encoder_weights(self) -> Self:
        if self.encoder.endswith(".keras") and self.encoder_weights != "imagenet":
            raise ValueError("encoder_weights: the saved model named by encoder brings its own; leave this unset")
        return self

    @model_validator(mode="after")
    def _check_preset(self) -> Self:
        if self.encoder == KERASHUB:
            raise ValueError(f"encoder: {KERASHUB} needs the name of a preset or folder behind it")
        if self.encoder.startswith(KERASHUB) and self.encoder.endswith(".keras"):
            raise ValueError(f"encoder: leave out {KERASHUB} before a saved Keras model")
        return self

    @property
    def encoder_name(self) -> str:
        """What the encoder is called in tables and file names: without the folders of its path."""
        return Path(self.encoder.removeprefix(KERASHUB)).name


class CaptionSettings(BaseModel):
    """Captions"""

    max_caption_length: int = setting(
        30, "most words of a caption. Training cuts longer captions, and decoding stops there", ge=1, le=1000
    )
    words: Literal["treebank", "unicode", "characters"] = setting(
        "treebank",
        "how captions are split into words, for vocabulary, models and scores. treebank: as the COCO evaluation splits "
        "English; unicode: by the word boundaries of Unicode (UAX #29), for any language; characters: each character "
        "is a word. For WordPieces of a multilingual BERT: unicode, with vocabulary=wordpieces",
        fixed="model",
    )
    vocabulary: Literal["words", "wordpieces"] = setting(
        "words",
        "units of a caption: words, or WordPieces of bert, which compose rare words. min_length, max_caption_length "
        "and no_repeat_ngram count these units",
        fixed="model",
    )
    vocab_threshold: int = setting(
        5,
        "a word enters the vocabulary if it occurs this often in the training captions",
        fixed="model",
        ge=1,
        le=10**9,
    )

    @model_validator(mode="after")
    def _check_words(self) -> Self:
        if self.words == "characters" and self.vocabulary == "wordpieces":
            raise ValueError("words: characters have no parts, so vocabulary=wordpieces needs treebank or unicode")
        return self


class DecoderSettings(CaptionSettings):
    """Decoder"""

    decoder: Literal[OneVectorDecoders, RegionDecoders] = setting(
        "inject",
        "merge: an LSTM reads the words, and one vector per image joins its output; inject: the LSTM reads this "
        "vector at every step; attention: an LSTM that looks at regions (Show, Attend and Tell); adaptive: attention "
        "with a visual sentinel; transformer: a transformer that looks at regions; updown: one LSTM looks and another "
        "speaks; aoa: an LSTM with attention on attention; m2: the meshed-memory transformer",
        never={"stage": ("align",)},
        fixed="decoder",
    )
    embedding: Literal["learned", "bert-static", "bert-prefix", "file"] = setting(
        "learned",
        "word vectors. learned: trained with the decoder; bert-static: BERT's input vectors; bert-prefix: BERT's "
        "states of the caption so far; file: those of embedding_file",
        never={"stage": ("align",)},
        fixed="decoder",
    )
    embedding_size: int = setting(
        300, "units of the word embedding. Pretrained vectors are projected to it", fixed="decoder", ge=1, le=8192
    )
    embedding_file: str = setting(
        "",
        "word vectors as text, in the format of word2vec, GloVe or fastText",
        only={"embedding": ("file",)},
        fixed="decoder",
    )
    embedding_trainable: bool = setting(
        False,
        "train the pretrained word vectors too. Otherwise they stay as they are",
        only={"embedding": ("bert-static", "file")},
        fixed="decoder",
    )
    bert: str = setting(
        "bert_base_en_uncased",
        "a KerasHub preset (bert_large_en_uncased is another), or a folder with a BERT in the layout of Hugging Face "
        "or KerasHub",
        only=({"embedding": ("bert-static", "bert-prefix")}, {"vocabulary": ("wordpieces",)}),
        fixed="decoder",
    )
    untied_output: bool = setting(
        False,
        "use two tables of word vectors, one for input and one for output. Other embeddings always have two, so this "
        "is the control for comparing with them",
        only={"decoder": get_args(RegionDecoders), "embedding": ("learned",)},
        fixed="decoder",
    )
    hidden_size: int = setting(
        256,
        "units of the recurrent layers, or width of the layers of aoa, transformer and m2",
        fixed="decoder",
        ge=1,
        le=8192,
    )
    dropout: float = setting(0.3, "share of units that dropout sets to zero", fixed="training", ge=0, lt=1)
    image_scale: float = setting(
        1.0,
        "factor of the image features. Below 1 the image projection learns more slowly than the words. This helps if "
        "features are many and images few",
        only={"decoder": get_args(OneVectorDecoders)},
        fixed="decoder",
        gt=0,
        le=1000,
    )
    attention_size: int = setting(
        256,
        "units of the layer that compares the decoder's state with each region",
        only={"decoder": ("attention", "adaptive", "updown")},
        fixed="decoder",
        ge=1,
        le=8192,
    )
    layers: int = setting(
        2,
        "number of encoder layers. transformer and m2 have as many decoder layers",
        only={"decoder": _LAYERED},
        fixed="decoder",
        ge=1,
        le=100,
    )
    heads: int = setting(
        8,
        "attention heads. They divide hidden_size among them",
        only={"decoder": _LAYERED},
        fixed="decoder",
        ge=1,
        le=1024,
    )
    memory_slots: int = setting(
        40,
        "learned memories that each encoder layer looks at beside the regions",
        only={"decoder": ("m2",)},
        fixed="decoder",
        ge=1,
        le=10_000,
    )

    @model_validator(mode="after")
    def _check_embedding_file(self) -> Self:
        if self.embedding == "file" and not self.embedding_file:
            raise ValueError(
                "embedding_file: embedding=file needs it (text in word2vec's, GloVe's or fastText's format)"
            )
        return self

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.decoder in _LAYERED and self.hidden_size % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide hidden_size, which is {self.hidden_size}")
        return self


class AlignmentSettings(DecoderSettings):
    """Alignment: images and captions in one space, for retrieval"""

    text_encoder: Literal["gru", "bigru"] = setting(
        "gru",
        "what reads a caption: a GRU (gru), or two GRUs in both directions (bigru)",
        only={"stage": ("align",)},
        fixed="training",
    )
    joint_size: int = setting(
        512,
        "units of the space that holds images and captions",
        only={"stage": ("align",)},
        fixed="training",
        ge=8,
        le=8192,
        multiple_of=8,
    )
    alignment_loss: Literal["infonce", "triplet"] = setting(
        "infonce",
        "infonce: tell the right partner from all others of the batch; triplet: keep the hardest wrong partner a "
        "margin behind the right one",
        only={"stage": ("align",)},
        fixed="training",
    )
    temperature: float = setting(
        0.05,
        "the cosines are divided by this",
        only={"stage": ("align",), "alignment_loss": ("infonce",)},
        fixed="training",
        taken_for="sample_temperature",
        gt=0,
        le=1,
    )
    margin: float = setting(
        0.2,
        "lead in cosine that the right partner should have",
        only={"stage": ("align",), "alignment_loss": ("triplet",)},
        fixed="training",
        gt=0,
        le=2,
    )


class BatchSettings(CaptionSettings, MachineSettings):
    """Batches"""

    batch_size: int = setting(
        64,
        "captions per batch. stage=finetune: images, each with all its captions; stage=scst: images. Decoders that "
        "look at regions get images with several captions each, with about as many captions in all",
        fixed="training",
        ge=1,
        le=100_000,
    )
    mirror: bool = setting(
        False,
        "train on mirrored images too, half of the time. Captions that say left or right never get a mirrored image, "
        "in English and the languages of captioning/words/sides.py. "
        "With a frozen encoder mirrored images have feature stores of their own",
        never={"features": ON},
        fixed="training",
    )
    crops: int = setting(
        0,
        "number of random crops of each training image, with feature stores of their own, the same for every seed. In "
        "each epoch a caption gets the whole image or one of the crops, at random. With mirror every second crop is "
        "mirrored",
        never={"stage": ("finetune",), "features": ON},
        fixed="training",
        ge=0,
        le=64,
    )
    crop: float = setting(
        0.7,
        "smallest share of an image that a random crop keeps. 1: the whole image. Fine-tuning draws a new crop every "
        "time",
        only=({"stage": ("finetune",)}, {"crops": ON}),
        fixed="training",
        gt=0,
        le=1,
    )
    colour_jitter: float = setting(
        0.1,
        "largest random change of brightness, contrast and saturation, as a share. Keep it small, because captions "
        "name colours",
        only=({"stage": ("finetune",)}, {"crops": ON}),
        fixed="training",
        ge=0,
        lt=1,
    )
    erase: float = setting(
        0.0,
        "probability that a random rectangle of a cropped training image is replaced by noise (random erasing, 0.5 in "
        "its paper). Fine-tuning draws it anew every time. 0: nothing is erased",
        only=({"stage": ("finetune",)}, {"crops": ON}),
        fixed="training",
        ge=0,
        le=1,
    )
    seed: int = setting(0, "seed of initial weights, shuffling and dropout", fixed="training", ge=0, le=2**32 - 1)


class OptimizerSettings(BaseModel):
    """Optimiser"""

    optimizer: Literal["adam", "adamw", "sgd"] = setting(
        "adam", "adam, adamw (Adam with weight decay) or sgd", fixed="training"
    )
    learning_rate: float = setting(1e-3, "peak learning rate", fixed="training", gt=0, le=1000)
    schedule: Literal["constant", "cosine"] = setting(
        "constant", "constant, or cosine decay to 1% of the peak over all epochs", fixed="training"
    )
    warmup_steps: int = setting(0, "batches of linear warm-up from zero", fixed="training", ge=0, le=10**9)
    weight_decay: float = setting(
        0.0, "decoupled weight decay", only={"optimizer": ("adamw",)}, fixed="training", ge=0, le=1000
    )
    clip_norm: float = setting(
        5.0, "largest global norm of a gradient; 0: no clipping", fixed="training", ge=0, le=10**9
    )
    ema_decay: float = setting(
        0.0,
        "decay per batch of a moving average of the weights. This average captions dev and is kept. In the first "
        "batches the decay is smaller. 0: no average",
        fixed="training",
        ge=0,
        lt=1,
    )
    accumulate: int = setting(
        1, "batches whose gradients make one update", never={"stage": ("scst",)}, fixed="training", ge=1, le=100_000
    )
    epochs: int = setting(20, "passes over the training captions", fixed="training", resumable=True, ge=1, le=100_000)


class RewardSettings(BaseModel):
    """Self-critical training: the captions that are drawn, and their reward"""

    samples: int = setting(5, "captions drawn per image", only={"stage": ("scst",)}, fixed="training", ge=2, le=100)
    baseline: Literal["others", "greedy"] = setting(
        "others",
        "what is subtracted from the reward of a drawn caption: the mean reward of the image's other drawn captions "
        "(others), or the reward of its greedy caption (greedy)",
        only={"stage": ("scst",)},
        fixed="training",
    )
    # Each setting that ends in _weight is a term of the reward: see ``weights``.
    cider_weight: float = setting(
        1.0,
        "weight of CIDEr-D in the reward; 0: it is not computed",
        only={"stage": ("scst",)},
        fixed="training",
        ge=0,
        le=10,
    )
    bleu_weight: float = setting(
        0.0,
        "weight of the caption's BLEU-4 in the reward (captioning/metrics/sentence_bleu.py); 0: it is not computed",
        only={"stage": ("scst",)},
        fixed="training",
        ge=0,
        le=10,
    )
    rarity_weight: float = setting(
        0.0,
        "weight of rare right words in the reward: the mean rarity of the caption's words, where words that no "
        "reference has count 0; 0: it is not computed",
        only={"stage": ("scst",)},
        fixed="training",
        ge=0,
        le=10,
    )
    retrieval_weight: float = setting(
        0.0,
        "weight in the reward of how well retrieval_aligner finds the image by the caption, among the images most like "
        "it. Then captions say what tells their image apart; 0: it is not computed",
        only={"stage": ("scst",)},
        never={"features": ON},
        fixed="training",
        ge=0,
        le=10,
    )
    retrieval_aligner: str = setting(
        "",
        "aligner that retrieval_weight asks: a bundle such as pretrained/search.zip, or a run of stage=align. It must "
        "have the encoder of init. A run that goes on may find the same aligner elsewhere",
        only={"stage": ("scst",), "retrieval_weight": ON},
        fixed="training",
        resumable=True,
    )
    retrieval_images: int = setting(
        100,
        "images among which retrieval_aligner must find the right one, besides that one: those most like it, or all "
        "training images if there are fewer",
        only={"stage": ("scst",), "retrieval_weight": ON},
        fixed="training",
        ge=1,
        le=10_000,
    )
    similar_weight: float = setting(
        0.0,
        "what the reward loses for each point of CIDEr-D that a caption gets, on average, with the references of "
        "similar images. Then captions tell images apart; 0: nothing",
        only={"stage": ("scst",)},
        fixed="training",
        ge=0,
        le=10,
    )
    similar_images: int = setting(
        4,
        "similar images that similar_weight compares with: those with the nearest features",
        only={"stage": ("scst",), "similar_weight": ON},
        fixed="training",
        ge=1,
        le=100,
    )

    def weights(self) -> dict[str, float]:
        """The terms of the reward and their weights, without those of weight 0. That of "similar" is negative."""
        terms = [name.removesuffix("_weight") for name in own_fields(RewardSettings) if name.endswith("_weight")]
        signed = {term: getattr(self, f"{term}_weight") * (-1 if term == "similar" else 1) for term in terms}
        return {term: weight for term, weight in signed.items() if weight}


class TrainingSettings(RewardSettings, OptimizerSettings, BatchSettings):
    """Training"""

    stage: Literal["xe", "finetune", "scst", "concepts", "align"] = setting(
        "xe",
        "xe: cross-entropy with the reference captions, encoder frozen; finetune: the same, and the encoder learns "
        "too, from pixels; scst: self-critical, rewarded for CIDEr-D and more, encoder frozen; concepts: which words "
        "fit a picture, for fewer objects that are not there, encoder and decoder frozen, the last stage of a captioner; "
        "align: images and captions in one space, for retrieval, encoder frozen",
        fixed="training",
    )
    init: str = setting(
        "",
        "run folder, or a bundle such as pretrained/pocket.zip. Training starts from its captioner and its settings; "
        "stage=align takes its encoder and vocabulary",
        fixed="training",
    )
    extend_vocabulary: bool = setting(
        False,
        "add words to the vocabulary of init: those that the training captions have vocab_threshold times. Words that "
        "were there keep their ids and weights",
        only={"init": ON},
        never={"stage": ("scst", "concepts")},
        fixed="training",
    )
    unknown_limit: float = setting(
        0.2,
        "share of the words of the training captions that init may not know. Above it training is refused, unless the "
        "vocabulary is extended. Without init a note is printed. 1: no limit",
        fixed="training",
        ge=0,
        le=1,
    )
    tuned_layers: int = setting(
        0,
        "layers of the encoder that learn. Only layers with a kernel count, from the output backwards. ResNet50: 10 "
        "are its last stage, 29 its last two. 0: all layers",
        only={"stage": ("finetune",)},
        fixed="training",
        ge=0,
        le=10_000,
    )
    encoder_learning_rate: float = setting(
        3e-4, "peak learning rate of the encoder", only={"stage": ("finetune",)}, fixed="training", gt=0, le=1000
    )
    xe_share: float = setting(
        0.05,
        "share of cross-entropy in the loss, which keeps sentences whole. It uses one reference per image, drawn anew "
        "in each epoch",
        only={"stage": ("scst",)},
        fixed="training",
        ge=0,
        le=1,
    )
    concept_words: int = setting(
        1000,
        "words that the visual concepts are: the commonest ones of the training captions",
        only={"stage": ("concepts",)},
        fixed="training",
        ge=1,
        le=1_000_000,
    )
    concept_size: int = setting(
        256,
        "units of the hidden layer that detects visual concepts",
        only={"stage": ("concepts",)},
        fixed="training",
        ge=1,
        le=16_384,
    )
    imagenet_classes: bool = setting(
        False,
        "also give the captioner the classifier that its encoder was trained with, for the 1,000 classes of ImageNet, "
        "and words for them. Then it names things that the training captions hardly name. English only, with "
        "encoder=efficientnet_lite2",
        only={"stage": ("concepts",)},
        fixed="training",
    )
    label_smoothing: float = setting(
        0.0,
        "probability that the training loss spreads over the whole vocabulary",
        never={"stage": ("concepts", "align")},
        fixed="training",
        ge=0,
        lt=1,
    )
    word_dropout: float = setting(
        0.0,
        "share of input words that are replaced by <unk> in training, so that the model must look at the image",
        fixed="training",
        ge=0,
        lt=1,
    )
    attention_penalty: float = setting(
        0.0,
        "weight of the doubly stochastic penalty. It asks a caption to look at all regions equally",
        only={"decoder": ("attention", "transformer", "updown", "aoa", "m2")},
        never={"stage": ("scst", "concepts", "align")},
        fixed="training",
        ge=0,
        le=1000,
    )
    monitor: Literal["bleu4", "cider", "loss", "recall"] = setting(
        "bleu4",
        "what chooses the best epoch on dev: BLEU-4 (bleu4) or CIDEr-D (cider) of its captions, or the loss. "
        "stage=align always takes recall: the sum of R@1, R@5 and R@10 in both directions. Among equal epochs the one "
        "with the lowest dev loss is best",
        fixed="training",
    )
    dev_beam_size: int = setting(
        1,
        "beam size for captioning dev after each epoch; 1: greedy search",
        never={"stage": ("align",)},
        fixed="training",
        ge=1,
        le=100,
    )
    patience: int = setting(
        0,
        "training stops after this many epochs without improvement; 0: never",
        fixed="training",
        resumable=True,
        ge=0,
        le=100_000,
    )
    sample_captions: int = setting(
        3, "dev captions printed after each epoch", fixed="training", resumable=True, ge=0, le=10_000
    )
    tensorboard: bool = setting(True, "write TensorBoard logs into the run folder", fixed="training", resumable=True)
    devices: str = setting(
        "1",
        "devices, such as GPUs, that share each batch: a number, or all. Features, dev and training use them. With JAX "
        "only (--backend jax); docs/scale.md has the details",
        fixed="training",
        resumable=True,
        coerce_numbers_to_str=True,
    )
    precision: Literal["float32", "bfloat16", "float16"] = setting(
        "float32",
        "number format for computing in training: of decoder or towers, also when dev is scored, and of an encoder "
        "that learns. Weights, frozen encoders and the result stay float32. bfloat16 suits CPUs and GPUs that support "
        "it, float16 suits GPUs (Keras scales the loss)",
        fixed="training",
    )

    @model_validator(mode="after")
    def _check_init(self) -> Self:
        if self.stage in ("finetune", "scst", "concepts") and not self.init:
            raise ValueError(f"init: stage={self.stage} improves a trained captioner; name its run folder or bundle")
        return self

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        if self.devices != "all" and not re.fullmatch(r"[1-9][0-9]{0,5}", self.devices):
            raise ValueError(f"devices: {self.devices!r} is no number from 1 on; give one, or all")
        return self

    @model_validator(mode="after")
    def _check_rewards(self) -> Self:
        if self.stage != "scst":
            return self
        if not any(weight > 0 for weight in self.weights().values()):
            raise ValueError(
                "cider_weight: nothing is rewarded, because it is 0 and so are bleu_weight, rarity_weight and "
                "retrieval_weight; set one of them above 0"
            )
        if self.retrieval_weight and not self.retrieval_aligner:
            raise ValueError(
                f"retrieval_aligner: retrieval_weight={self.retrieval_weight:g} needs an aligner with the encoder of "
                "init; name its bundle or run (train.py --stage align --init NAME makes one), or set retrieval_weight "
                "to 0"
            )
        return self

    @model_validator(mode="after")
    def _check_monitor(self) -> Self:
        if (self.stage == "align") != (self.monitor == "recall"):
            raise ValueError(
                f"monitor: stage=align needs recall, and recall needs stage=align; stage is {self.stage}, and monitor "
                f"is {self.monitor}"
            )
        return self


class DecodingSettings(CaptionSettings):
    """Decoding"""

    beam_size: int = setting(
        3, "captions kept at each step of beam search; 1: greedy search", never={"stage": ("align",)}, ge=1, le=100
    )
    length_penalty: float = setting(
        1.0,
        "captions are ranked by log p / length^a, and this is a. 0: by probability; 1: by probability per word",
        never={"stage": ("align",)},
        ge=0,
        le=5,
    )
    no_repeat_ngram: int = setting(
        0,
        "no sequence of this many words occurs twice in a caption; 0: all may",
        never={"stage": ("align",)},
        ge=0,
        le=10,
    )
    min_length: int = setting(1, "fewest words of a caption", never={"stage": ("align",)}, ge=1, le=1000)
    prefix: str = setting("", 'words that every caption starts with, such as "a photo of"', never={"stage": ("align",)})
    include: tuple[str, ...] = setting(
        (),
        'words that every caption contains, comma-separated; "red car" is one phrase, and "cat|cats" means one of the '
        "two. Use it with a beam_size of 10",
        never={"stage": ("align",)},
    )
    exclude_words: tuple[str, ...] = setting(
        (), "words and phrases that no caption contains, comma-separated", never={"stage": ("align",)}
    )
    concept_weight: float = setting(
        0.0,
        "how much words are preferred that the picture suggests more than others do (captioning/concepts/detector.py)",
        only={"stage": ("concepts",)},
        ge=0,
        le=10,
    )
    object_weight: float = setting(
        0.0,
        "how much objects are avoided that the picture does not suggest. Higher: fewer objects that are not there, and "
        "plainer captions. English only",
        only={"stage": ("concepts",)},
        ge=0,
        le=10,
    )
    rare_weight: float = setting(
        0.0,
        "how much words are preferred that few training captions have. Higher: more different words, and more mistakes",
        only={"stage": ("concepts",)},
        ge=0,
        le=10,
    )
    class_weight: float = setting(
        3.0,
        "how much words are preferred that name what the encoder's own classifier sees, such as a lion "
        "(captioning/concepts/classes.py)",
        only={"imagenet_classes": ON},
        ge=0,
        le=100,
    )
    repeat_weight: float = setting(
        0.0,
        "how much words are avoided that the caption has already, such as a second couch. Words that captions do "
        "repeat, such as a, are hardly avoided (captioning/concepts/detector.py)",
        only={"stage": ("concepts",)},
        ge=0,
        le=10,
    )
    agreement_weight: float = setting(
        0.0,
        "how much the captions of a beam are ranked by their agreement with the words that the picture suggests "
        "(captioning/concepts/agreement.py), and not by log p alone. Higher: captions of pictures differ more. With consensus it does nothing",
        only={"stage": ("concepts",)},
        ge=0,
        le=100,
    )
    consensus: bool = setting(
        False,
        "rank the captions of a beam by their likeness to all of them. Use it with a beam_size of 20",
        never={"stage": ("align",)},
    )
    num_captions: int = setting(
        0,
        "captions given for each image, best first; a beam search gives at most beam_size. 0: one; from Python: all of "
        "the beam",
        never={"stage": ("align",)},
        ge=0,
        le=100,
    )
    beam_groups: int = setting(
        1,
        "groups that share the beam in diverse beam search. A group avoids the words that the groups before it have "
        "just taken. It must divide beam_size; 1: plain beam search",
        never={"stage": ("align",)},
        ge=1,
        le=100,
    )
    diversity_penalty: float = setting(
        0.5,
        "what a word loses in log p for each earlier group's caption that takes it at the same place",
        only={"beam_groups": ON},
        gt=0,
        le=100,
    )
    do_sample: bool = setting(
        False, "draw each word at random in place of a search; beam_size is not read then", never={"stage": ("align",)}
    )
    sample_temperature: float = setting(
        1.0,
        "log p of words is divided by this before they are drawn; below 1: closer to the most probable captions",
        only={"do_sample": ON},
        gt=0,
        le=100,
    )
    top_k: int = setting(
        0, "draw among this many most probable words; 0: among all", only={"do_sample": ON}, ge=0, le=10**9
    )
    top_p: float = setting(
        1.0,
        "draw among the fewest most probable words that together have this probability",
        only={"do_sample": ON},
        gt=0,
        le=1,
    )
    typical_p: float = setting(
        1.0,
        "draw among the fewest words that together have this probability, those first whose log p is closest to what "
        "is expected",
        only={"do_sample": ON},
        gt=0,
        le=1,
    )
    sample_seed: int = setting(
        0,
        "seed of the draws; the same one gives a picture the same captions again",
        only={"do_sample": ON},
        ge=0,
        le=2**32 - 1,
    )
    decode_batch_size: int = setting(100, "images captioned at once", ge=1, le=10_000)

    @model_validator(mode="after")
    def _check_min_length(self) -> Self:
        if self.min_length > self.max_caption_length:
            raise ValueError(
                f"min_length: {self.min_length} is above max_caption_length, which is {self.max_caption_length}"
            )
        return self

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        if self.beam_size % self.beam_groups:
            raise ValueError(
                f"beam_groups: {self.beam_groups} groups cannot share a beam_size of {self.beam_size} evenly; set "
                f"beam_size to {-(-self.beam_size // self.beam_groups) * self.beam_groups}, or choose other groups"
            )
        return self

    @model_validator(mode="after")
    def _check_num_captions(self) -> Self:
        if not self.do_sample and self.num_captions > self.beam_size:
            raise ValueError(
                f"num_captions: {self.num_captions} captions need a beam_size of at least that, and it is {self.beam_size}; "
                "raise beam_size, or set do_sample"
            )
        return self

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        """Refuse what only a beam can do beside ``do_sample``."""
        for name, is_off in (("include", not self.include), ("consensus", not self.consensus)):
            if self.do_sample and not is_off:
                raise ValueError(f"do_sample: draws captions, and {name} needs a beam search; leave out one of the two")
        if self.do_sample and self.beam_groups > 1:
            raise ValueError("do_sample: draws captions, and beam_groups share a beam search; leave out one of the two")
        return self

    @property
    def votes(self) -> bool:
        """Whether consensus decides. It needs three captions, because two cannot outvote one another."""
        return self.consensus and self.beam_size > 2

    @property
    def is_constrained(self) -> bool:
        """Whether something is asked of the words of captions."""
        return bool(self.prefix or self.include or self.exclude_words)

    def decoding(self) -> dict[str, Any]:
        """The settings that decide which captions a search finds, by name."""
        names = [*set(own_fields(DecodingSettings)) - {"decode_batch_size", "num_captions"}, "max_caption_length"]
        return {name: getattr(self, name) for name in sorted(names)}


class Config(DecodingSettings, TrainingSettings, AlignmentSettings, EncoderSettings, MixtureSettings):
    """All settings of a run. Immutable; ``with_overrides`` gives a changed, validated copy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _refuse_no_encoder(self) -> Self:
        """Refuse stages that need pictures where there are stored features only."""
        if self.features and self.stage == "finetune":
            raise ValueError(
                "features: stage=finetune lets the encoder learn, and stored features have none; take xe or scst"
            )
        if self.features and self.stage == "align":
            raise ValueError(
                "features: stage=align makes towers that search pictures, which need an encoder; leave features out"
            )
        return self

    @model_validator(mode="after")
    def _refuse_nul(self) -> Self:
        """Refuse texts that no file or folder can have as its name."""
        for name in Config.model_fields:
            texts = [text for text in listed(getattr(self, name)) if isinstance(text, str)]
            if any("\0" in text or len(text) > _LONGEST for text in texts):
                raise ValueError(f"{name}: has a NUL character or more than {_LONGEST:,} characters")
        return self

    @model_validator(mode="after")
    def _refuse_unread(self) -> Self:
        """Refuse settings that nothing would read, unless they are at their defaults."""
        for name in Config.model_fields:
            if problem := refusal(self, name):
                raise ValueError(f"{name}: {problem}")
        return self

    @model_validator(mode="after")
    def _check_feature_grid(self) -> Self:
        if self.feature_grid == 1 and not self.features and self.decoder in get_args(RegionDecoders):
            raise ValueError(
                f"feature_grid: decoder={self.decoder} chooses among regions, and with 1 there is only one; set it to 0"
            )
        return self

    def with_overrides(self, overrides: Mapping[str, Any], source: str = "the command line") -> "Config":
        """A copy with ``overrides`` (values may be strings, as typed). Raises UserError naming each bad setting."""
        return validated({**self.model_dump(), **overrides}, source)

    def dev_search(self) -> "Config":
        """The settings with which training captions dev."""
        # Not validated again: this also names the curves of an aligner, which may not have a beam_size.
        # How many captions of a user's own pictures are wanted, and how varied, is another matter.
        plain = {name: Config.model_fields[name].default for name in ("num_captions", "beam_groups", "do_sample")}
        return self.model_copy(update=plain | {"beam_size": self.dev_beam_size})

    def to_json(self) -> str:
        """The settings as indented JSON text, as captioning/command_line/reading.py reads it."""
        return json.dumps(self.model_dump(), indent=2) + "\n"


def search_name(settings: DecodingSettings) -> str:
    """What the search with these settings is called in tables and logs."""
    if settings.do_sample:
        changed = {name: getattr(settings, name) for name in ("sample_temperature", "top_k", "top_p", "typical_p")}
        limits = [f"{name} {value:g}" for name, value in changed.items() if value != Config.model_fields[name].default]
        name = ", ".join([f"best of {settings.num_captions} drawn" if settings.num_captions > 1 else "drawn", *limits])
    else:
        name = "greedy" if settings.beam_size == 1 else f"beam {settings.beam_size}"
    if settings.beam_groups > 1:
        name += f", {settings.beam_groups} groups with penalty {settings.diversity_penalty:g}"
    return name + ", consensus" * settings.votes + ", constrained" * settings.is_constrained


_LONGEST = 4096  # characters of a setting; no path or address is longer
_SEVERAL = {name for name in Config.model_fields if takes_several(Config, name)}


def validated(values: Mapping[str, Any], source: str, strict: bool = False) -> Config:
    """The settings with ``values``; defaults where there are none. ``strict``: numbers may not be written as text.

    Raises UserError that names ``source`` and each bad setting.
    """
    # A list of one value is that value, so that one data set is written down in one way.
    values = {
        name: value[0] if isinstance(value, list | tuple) and len(value) == 1 and name in _SEVERAL else value
        for name, value in values.items()
    }
    try:
        # JSON text, because strict mode reads arrays as tuples only there.
        return Config.model_validate_json(json.dumps(values), strict=strict)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = ".".join(str(part) for part in item["loc"][:1])
            if item["type"] == "extra_forbidden":
                near = difflib.get_close_matches(name, Config.model_fields, n=1)
                problems.append(f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
            elif not name:
                problems.append(item["msg"].removeprefix("Value error, "))
            else:
                problems.append(f"{name}: {item['msg']}, got {item['input']!r}")
        raise UserError(f"bad settings in {source}:\n" + "\n".join(f"  {line}" for line in problems)) from None


# Presets --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """A named experiment, run by ``python train.py --preset NAME``.

    ``aim``: the paper or purpose. ``settings``: those that differ from the defaults. ``time`` and ``score``: what
    docs/results.md records of a training, on 2 CPU cores. CIDEr and BLEU-4 are with a beam of 3.
    """

    aim: str
    time: str
    score: str
    settings: Mapping[str, Any]


# Sizes of dabasajay/Image-Caption-Generator: image and word vectors of 300 units, an LSTM of 256. Its recipe was
# changed on dev: dropout 0.5 instead of 0.3, label smoothing, a cosine schedule, and the settings of decoding.
_FLICKR8K = {
    "dropout": 0.5,
    "label_smoothing": 0.1,
    "schedule": "cosine",
    "warmup_steps": 200,
    "length_penalty": 0.4,
    "min_length": 7,
    "no_repeat_ngram": 2,
}

# Region decoders over the 7 x 7 grid. Decoding was chosen on dev with the attention decoder.
_FLICKR8K_GRID = {
    "feature_grid": 0,
    "embedding_size": 512,
    "hidden_size": 512,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "learning_rate": 5e-4,
    "schedule": "cosine",
    "warmup_steps": 200,
    "label_smoothing": 0.1,
    "word_dropout": 0.1,
    "ema_decay": 0.999,
    "mirror": True,
    "batch_size": 128,
    "epochs": 16,
    "monitor": "cider",
    "length_penalty": 0.7,
    "min_length": 7,
    "no_repeat_ngram": 2,
}

# Region decoders on MS-COCO.
_COCO = {"dataset": "coco", "data_dir": "data/coco", "feature_grid": 0}

# Two towers, for retrieval. They learn 6,000 images by heart in a few epochs, so much regularisation holds them back.
_ALIGN = {
    "hidden_size": 512,
    "dropout": 0.5,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup_steps": 100,
    "word_dropout": 0.1,
    "ema_decay": 0.999,
    "batch_size": 128,
    "epochs": 30,
    "monitor": "recall",
}

# The scores of presets with resnet50 were reached with other weights than those of Keras; docs/results.md tells which.
PRESETS = {
    "demo": Preset(
        aim="the whole path on generated scenes, with the shipped encoder and without a download; no paper",
        time="90 seconds of training, under three minutes from data to captions",
        score="77.3% of the captions of test scenes are all right, CIDEr 299.0",
        # Nine regions, because a relation is a matter of place. The loss as monitor, because BLEU mostly tells wordings
        # apart here.
        settings={
            "dataset": "demo",
            "data_dir": "data/demo",
            "encoder": "efficientnet_lite0",
            "feature_grid": 3,
            "vocab_threshold": 2,
            "decoder": "merge",
            "image_scale": 0.1,
            "dropout": 0.2,
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "epochs": 14,
            "monitor": "loss",
        },
    ),
    "flickr8k-merge": Preset(
        aim="the merge decoder of dabasajay/Image-Caption-Generator in its sizes (Tanti et al., 2018)",
        time="26 minutes, beside the training of flickr8k-inject",
        score="Flickr8k test: CIDEr 50.95, BLEU-4 20.24",
        settings=_FLICKR8K | {"decoder": "merge"},
    ),
    "flickr8k-inject": Preset(
        aim="the inject decoder of dabasajay/Image-Caption-Generator in its sizes (Tanti et al., 2018)",
        time="35 minutes, beside the training of flickr8k-merge",
        score="Flickr8k test: CIDEr 49.89, BLEU-4 20.01",
        settings=_FLICKR8K | {"decoder": "inject"},
    ),
    "flickr8k-attention": Preset(
        aim="soft attention (Xu et al., 2015) over 7 x 7 regions",
        time="53 minutes, with other work beside it",
        score="Flickr8k test: CIDEr 56.17, BLEU-4 22.02",
        settings=_FLICKR8K_GRID | {"decoder": "attention", "dropout": 0.5},
    ),
    "flickr8k-adaptive": Preset(
        aim="adaptive attention with a visual sentinel (Lu et al., 2017) over 7 x 7 regions",
        time="38 minutes with --precision bfloat16, beside other trainings",
        score="Flickr8k test: CIDEr 54.62, BLEU-4 21.77",
        # Dropout stays at its default of 0.3, chosen on dev: with 0.5 the decoder is still learning when training ends.
        settings=_FLICKR8K_GRID | {"decoder": "adaptive", "epochs": 10},
    ),
    "flickr8k-transformer": Preset(
        aim="a transformer of two encoder and two decoder layers (Vaswani et al., 2017) over 7 x 7 regions",
        time="102 minutes with --precision bfloat16, beside evaluations and tests",
        score="Flickr8k test: CIDEr 54.66, BLEU-4 20.95",
        # Dropout as above.
        settings=_FLICKR8K_GRID | {"decoder": "transformer"},
    ),
    "flickr8k-updown": Preset(
        aim="up-down attention with two LSTMs (Anderson et al., 2018) over 7 x 7 regions",
        time="not measured",
        score="not measured",
        # The recipe of flickr8k-attention. Nothing was tuned.
        settings=_FLICKR8K_GRID | {"decoder": "updown", "dropout": 0.5},
    ),
    "flickr8k-aoa": Preset(
        aim="attention on attention (Huang et al., 2019) with two refining layers over 7 x 7 regions",
        time="not measured",
        score="not measured",
        # Dropout as in flickr8k-transformer, because most of the weights are in layers like its own. Nothing was tuned.
        settings=_FLICKR8K_GRID | {"decoder": "aoa"},
    ),
    "flickr8k-m2": Preset(
        aim="the meshed-memory transformer (Cornia et al., 2020), two layers each, over 7 x 7 regions",
        time="not measured",
        score="not measured",
        # The recipe of flickr8k-transformer. Nothing was tuned.
        settings=_FLICKR8K_GRID | {"decoder": "m2"},
    ),
    "pocket": Preset(
        aim="everyday pictures, from MS-COCO and Flickr8k together, with the shipped encoder; no paper",
        time="not measured",
        score="not measured",
        # The first stage of the captioner in this repository. pretrained/README.md tells the other one. Mirrored images
        # would double features that take much disk already.
        settings={name: value for name, value in _FLICKR8K_GRID.items() if name != "mirror"}
        | {
            "dataset": ("coco", "flickr8k"),
            "decoder": "attention",
            "dropout": 0.5,
            "encoder": "efficientnet_lite2",
            "image_size": 260,
            "learning_rate": 8e-4,
            "epochs": 7,
        },
    ),
    "flickr8k-lite0": Preset(
        aim="Flickr8k alone, with a small encoder that comes with the repository; no paper",
        time="46 minutes, with other work beside it",
        score="Flickr8k dev: CIDEr 52.55 with beam 3",
        # The first of the four stages of the Lite0 captioner. docs/results.md tells the others.
        settings=_FLICKR8K_GRID
        | {
            "decoder": "attention",
            "dropout": 0.5,
            "encoder": "efficientnet_lite0",
            "epochs": 14,
        },
    ),
    "coco-attention": Preset(
        aim="soft attention (Xu et al., 2015) on MS-COCO in its widespread sizes, over 7 x 7 regions, not 14 x 14",
        time="not measured",
        score="not measured",
        # The sizes are those of widespread reimplementations: embedding, LSTM and attention of 512 units, Adam at 4e-4,
        # dropout 0.5, penalty of weight 1. Features of 7 x 7 regions take 25 GB; those of 14 x 14 would take 99.
        # Nothing was tuned.
        settings=_COCO
        | {
            "decoder": "attention",
            "embedding_size": 512,
            "hidden_size": 512,
            "attention_size": 512,
            "dropout": 0.5,
            "learning_rate": 4e-4,
            "attention_penalty": 1.0,
        },
    ),
    "coco-updown": Preset(
        aim="up-down attention (Anderson et al., 2018) on MS-COCO in its sizes, over 7 x 7 regions, not found objects",
        time="not measured",
        score="not measured",
        # Embedding and LSTMs of 1000 units, attention of 512, as in the paper. The rest as in coco-attention. Nothing
        # was tuned.
        settings=_COCO
        | {
            "decoder": "updown",
            "embedding_size": 1000,
            "hidden_size": 1000,
            "attention_size": 512,
            "dropout": 0.5,
            "learning_rate": 5e-4,
        },
    ),
    "coco-aoa": Preset(
        aim="attention on attention (Huang et al., 2019) on MS-COCO in its sizes, over 7 x 7 regions, not found objects",
        time="not measured",
        score="not measured",
        # Width 1024, 6 refining layers, 8 heads and a learning rate of 2e-4, as in the paper. Nothing was tuned.
        settings=_COCO
        | {
            "decoder": "aoa",
            "embedding_size": 1024,
            "hidden_size": 1024,
            "layers": 6,
            "learning_rate": 2e-4,
            "epochs": 25,
        },
    ),
    "coco-m2": Preset(
        aim="the meshed-memory transformer (Cornia et al., 2020) on MS-COCO in its sizes, over 7 x 7 regions, not "
        "found objects",
        time="not measured",
        score="not measured",
        # Width 512, 3 layers each, 8 heads, 40 memories, dropout 0.1 and 10,000 batches of warm-up, as in the paper.
        # Its peak learning rate is that of the paper's schedule. Nothing was tuned.
        settings=_COCO
        | {
            "decoder": "m2",
            "embedding_size": 512,
            "hidden_size": 512,
            "layers": 3,
            "dropout": 0.1,
            "learning_rate": 4.4e-4,
            "schedule": "cosine",
            "warmup_steps": 10_000,
        },
    ),
    "flickr8k-align": Preset(
        aim="retrieval as in VSE++ (Faghri et al., 2018) over 7 x 7 regions, with cross-entropy within the batch",
        time="30 minutes, with other work beside it",
        score="Flickr8k test: R@1 23.2 from image to text, 16.3 from text to image",
        settings=_ALIGN | {"stage": "align", "feature_grid": 0, "mirror": True},
    ),
}

# A stage starts from the settings of a run (init) or of a preset. Then it makes these changes by itself, which the
# command line overrides. Settings that the stage does not read go back to their defaults.
STAGE_CHANGES: dict[str, dict[str, Any]] = {
    # Chosen on dev with ResNet50 and attention. All layers of the encoder learn. The decoder learns as fast as in
    # its own training.
    "finetune": {
        "learning_rate": 5e-4,
        "warmup_steps": 50,
        "ema_decay": 0.99,
        "epochs": 14,
        "batch_size": 60,
        "accumulate": 1,
        "monitor": "cider",
    },
    "scst": {
        "learning_rate": 1e-4,
        "batch_size": 32,
        "warmup_steps": 0,
        "epochs": 10,
        "label_smoothing": 0.0,
        "word_dropout": 0.0,
        "ema_decay": 0.99,
        "monitor": "cider",
    },
    # The weights were chosen on dev of everyday photographs, and repeat_weight later than the others.
    "concepts": {
        "learning_rate": 1e-3,
        "batch_size": 256,
        "warmup_steps": 50,
        "epochs": 6,
        "accumulate": 1,
        "word_dropout": 0.0,
        "ema_decay": 0.0,
        "monitor": "loss",
        "concept_weight": 0.4,
        "object_weight": 1.6,
        "rare_weight": 0.15,
        "repeat_weight": 0.5,
        "agreement_weight": 8.0,
    },
    # The learning rate goes back to the default, whatever that of the captioner was.
    "align": _ALIGN | {"learning_rate": 1e-3},
}


def _print_presets() -> None:
    for name, preset in PRESETS.items():
        print(f"{name}: {preset.aim}")
        print(f"    python train.py --preset {name}")
        print(f"    time: {preset.time}")
        print(f"    score: {preset.score}")
        print(f"    settings: {', '.join(f'{key}={shown(value)}' for key, value in preset.settings.items())}")


def main() -> None:
    from captioning.command_line.options import make_parser
    from captioning.command_line.resolving import resolve

    parser = make_parser(__doc__)
    parser.add_argument("--presets", action="store_true", help="print what each preset is for, its time and its score")
    args = parser.parse_args()
    if args.presets:
        _print_presets()
    else:
        print(resolve(args).to_json(), end="")


if __name__ == "__main__":
    from captioning.base.script import run_script

    run_script(main)
