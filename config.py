"""Every setting of the system: its default, unit and meaning, the named presets, and the command line.

    python config.py                      # print every setting as JSON, after presets and overrides
    python config.py --preset demo --epochs 3

This module imports neither Keras nor any module of ours: ``parse`` settles ``KERAS_BACKEND`` before Keras is first
imported, and every other module may read it.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from captioning.base.errors import UserError

ROOT = Path(__file__).parent
# The captioners that come with this repository, and the one that is used when none is named.
PRETRAINED = ROOT / "pretrained"
POCKET = PRETRAINED / "pocket.zip"


def own_fields(group: type[BaseModel]) -> list[str]:
    """The names of the settings that ``group`` declares itself, without those of the groups that it extends."""
    return [name for name in group.model_fields if name in group.__annotations__]


class MachineSettings(BaseModel):
    """Machine and folders"""

    workers: int = Field(2, ge=1, description="threads that read batches")
    run_dir: str = Field("runs", description="folder that holds the run folders")
    backend: Literal["", "tensorflow", "jax", "torch"] = Field(
        "", description="Keras backend; empty: KERAS_BACKEND, else Keras' own choice"
    )


class CaptionSettings(BaseModel):
    """Captions"""

    max_caption_length: int = Field(
        30, ge=1, description="words kept of a caption in training, and produced at most in decoding"
    )
    vocabulary: Literal["words", "wordpieces"] = Field(
        "words",
        description="what captions are made of: words, or the WordPieces of bert, of which rare words are put together; min_length, max_caption_length and no_repeat_ngram count these",
    )
    vocab_threshold: int = Field(
        5, ge=1, description="a word enters the vocabulary when the training captions hold it this often"
    )


class DataSettings(BaseModel):
    """Data"""

    dataset: Literal["flickr8k", "flickr30k", "coco", "karpathy", "demo", "folder"] = Field(
        "flickr8k",
        description="which reader: Flickr8k, Flickr30k or MS-COCO in their official layouts, a Karpathy split file with the images of one of these, the generated demo scenes, or your own folder of images with a captions file",
    )
    data_dir: str = Field(
        "data/flickr8k",
        description="folder of the data set; for flickr8k and coco it may hold the published zip files instead of their contents",
    )
    captions_file: str | None = Field(
        None,
        description="dataset=folder: the captions, as .csv (columns image,caption[,split]) or .jsonl; karpathy: the split file, such as dataset_coco.json; flickr30k: the split file, if there is one",
    )
    coco_year: Literal["2014", "2017"] = Field(
        "2017", description="dataset=coco: which edition; both hold the same images, in other parts"
    )
    dev_fraction: float = Field(
        0.1, ge=0, lt=1, description="folder or flickr30k without splits: share of the images drawn for dev"
    )
    test_fraction: float = Field(
        0.1, ge=0, lt=1, description="folder or flickr30k without splits: share of the images drawn for test"
    )
    split_seed: int = Field(0, ge=0, description="seed of that draw (by image, so no image is in two splits)")
    demo_images: int = Field(
        1200, ge=20, description="dataset=demo: number of scenes, three quarters of them for training"
    )
    download_urls: tuple[str, ...] = Field(
        (),
        description="where preprocessing.py --download finds the archives of flickr8k, coco or karpathy (comma-separated) [empty: where they are published, see download.py]",
    )
    download_checksums: tuple[str, ...] = Field(
        (),
        description="md5:HEX or sha256:HEX of each archive, in the order of download_urls; empty: the digests are printed, not checked",
    )


class EncoderSettings(MachineSettings):
    """Encoder and features"""

    encoder: str = Field(
        "resnet50",
        description="resnet50, any other keras.applications backbone (e.g. efficientnet_v2b0), efficientnet_lite0 (its weights ship with this repository), or the path of a saved Keras model that maps RGB 0-255 images to a feature grid",
    )
    encoder_weights: str = Field(
        "imagenet",
        description="imagenet, none (random), or the path of a weights file; a saved Keras model brings its own",
    )
    image_size: int = Field(224, ge=32, le=1024, description="pixels per side that images are resized to")
    feature_grid: int = Field(
        1,
        ge=0,
        le=32,
        description="regions per side that the encoder's grid is average-pooled to: 1 is one vector per image, 0 keeps the encoder's own grid (7 x 7 for 224 pixels)",
    )
    feature_dtype: Literal["float16", "float32"] = Field("float16", description="type of the stored features")
    feature_dir: str = Field("features", description="folder of the feature stores")
    extract_batch_size: int = Field(32, ge=1, description="images per encoder batch")


class DecoderSettings(CaptionSettings):
    """Decoder"""

    decoder: Literal["merge", "inject", "attention", "adaptive", "transformer"] = Field(
        "inject",
        description="merge or inject (one vector per image, entering after the LSTM or at every step), attention (over regions, Show, Attend and Tell), adaptive (with a visual sentinel), or transformer",
    )
    embedding: Literal["learned", "bert-static", "bert-prefix", "file"] = Field(
        "learned",
        description="word vectors: learned with the decoder, BERT's input vectors (bert-static), BERT's states of the caption so far (bert-prefix), or those of embedding_file (file)",
    )
    embedding_size: int = Field(300, ge=1, description="units of the word embedding, to which all others are projected")
    embedding_file: str = Field(
        "", description="embedding=file: word vectors as text, in the format of word2vec, GloVe or fastText"
    )
    embedding_trainable: bool = Field(
        False, description="train pretrained word vectors too, which else stay as they are (bert-static, file)"
    )
    bert: str = Field(
        "bert_base_en_uncased",
        description="a KerasHub preset (bert_large_en_uncased is another), or a folder with a BERT in the layout of Hugging Face or KerasHub (bert-static, bert-prefix, vocabulary=wordpieces)",
    )
    untied_output: bool = Field(
        False,
        description="give the output a table of words of its own with embedding=learned too, as it has with all others: the control in a comparison with them (attention, adaptive, transformer)",
    )
    hidden_size: int = Field(256, ge=1, description="units of the recurrent layers, or the transformer's width")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of inputs dropped where the model drops any")
    image_scale: float = Field(
        1.0,
        gt=0,
        description="image features are multiplied by this; below 1 the image projection learns more slowly than the words, which helps where features are many and images few (merge, inject)",
    )
    attention_size: int = Field(
        256, ge=1, description="units in which state and region meet to be scored (attention, adaptive)"
    )
    layers: int = Field(2, ge=1, description="encoder layers and decoder layers (transformer)")
    heads: int = Field(8, ge=1, description="attention heads; they share hidden_size evenly (transformer)")


# Settings of some decoders only.
DECODER_SETTINGS: dict[str, tuple[str, ...]] = {
    "image_scale": ("merge", "inject"),
    "attention_size": ("attention", "adaptive"),
    "layers": ("transformer",),
    "heads": ("transformer",),
    "untied_output": ("attention", "adaptive", "transformer"),
}

# Settings of some word embeddings only.
EMBEDDING_SETTINGS: dict[str, tuple[str, ...]] = {
    "embedding_file": ("file",),
    "embedding_trainable": ("bert-static", "file"),
    "untied_output": ("learned",),
}


class AlignmentSettings(DecoderSettings):
    """Alignment (stage=align)"""

    text_encoder: Literal["gru", "bigru"] = Field(
        "gru", description="what reads captions: gru (forwards) or bigru (a second one backwards)"
    )
    joint_size: int = Field(
        512, ge=8, multiple_of=8, description="units of the space in which images and captions meet"
    )
    alignment_loss: Literal["infonce", "triplet"] = Field(
        "infonce",
        description="infonce (tell the right one from all others of the batch) or triplet (keep the hardest other one a margin behind)",
    )
    temperature: float = Field(0.05, gt=0, le=1, description="cosines are divided by this (infonce)")
    margin: float = Field(0.2, gt=0, le=2, description="cosine by which the right one should lead (triplet)")


class BatchSettings(CaptionSettings, MachineSettings):
    """Batches"""

    batch_size: int = Field(
        64,
        ge=1,
        description="captions per batch (about as many with the transformer, whose batches hold whole images); images, in finetune with all their captions, in scst",
    )
    mirror: bool = Field(
        False,
        description="train on mirrored images too, half of the time (from feature stores of their own while the encoder is frozen); captions that say left or right never meet one",
    )
    crops: int = Field(
        0,
        ge=0,
        le=64,
        description="train on so many random crops of every training image too, the same for every seed, each with a feature store of its own; with mirror every other one is mirrored. A caption meets the image or any of these, drawn anew in each epoch (frozen encoder)",
    )
    crop: float = Field(
        0.7, gt=0, le=1, description="least share of a picture that a random crop keeps; 1: all of it (finetune, crops)"
    )
    colour_jitter: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="most that brightness, contrast and saturation change at random, as a share; little, because captions name colours (finetune, crops)",
    )
    seed: int = Field(0, ge=0, description="seed of initial weights, shuffling and dropout")


class OptimizerSettings(BaseModel):
    """Optimiser"""

    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="adam, adamw (weight decay) or sgd")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="constant, or cosine decay to 1%% of the peak over all epochs"
    )
    warmup_steps: int = Field(0, ge=0, description="batches of linear warm-up from zero")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay (optimizer=adamw)")
    clip_norm: float = Field(5.0, ge=0, description="global gradient norm that is clipped to; 0: no clipping")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per batch of a moving average of the weights, which then is what captions and is kept (less in the first batches); 0: none",
    )
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one update")
    epochs: int = Field(20, ge=1, description="passes over the training captions")


class TrainingSettings(BatchSettings, OptimizerSettings):
    """Training"""

    stage: Literal["xe", "finetune", "scst", "align"] = Field(
        "xe",
        description="xe (cross-entropy with the reference captions, encoder frozen), finetune (the same with the encoder learning too, from pixels), scst (self-critical: CIDEr-D as reward, encoder frozen) or align (images and captions into one space, for retrieval, encoder frozen)",
    )
    init: str = Field(
        "",
        description="run folder whose captioner and settings training starts from; align takes its encoder and vocabulary",
    )
    tuned_layers: int = Field(
        0,
        ge=0,
        description="encoder layers that learn, counted from its output, of those with a kernel (ResNet50: 10 are its last stage, 29 the last two); 0: all (finetune)",
    )
    encoder_learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of the encoder (finetune)")
    samples: int = Field(5, ge=2, le=100, description="captions drawn per image (scst)")
    baseline: Literal["others", "greedy"] = Field(
        "others",
        description="what a drawn caption's reward is measured against: the mean of the image's other ones, or the greedy caption (scst)",
    )
    xe_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of cross-entropy in the loss, which keeps sentences whole; it is of one reference an image, drawn anew in each epoch (scst)",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="probability mass spread over the whole vocabulary in the training loss"
    )
    word_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of input words replaced by <unk> in training, so that the image must tell"
    )
    attention_penalty: float = Field(
        0.0,
        ge=0,
        description="weight of the doubly stochastic penalty, which asks a caption to look at all regions alike (attention, transformer)",
    )
    monitor: Literal["bleu4", "cider", "loss", "recall"] = Field(
        "bleu4",
        description="what picks the best checkpoint on dev: BLEU-4 or CIDEr-D of its captions, or the loss; recall (the sum of R@1, 5 and 10 both ways) for align",
    )
    dev_beam_size: int = Field(
        1,
        ge=1,
        le=100,
        description="beam size for captioning dev after each epoch; 1: greedy",
    )
    patience: int = Field(0, ge=0, description="epochs without improvement before training stops; 0: never")
    sample_captions: int = Field(3, ge=0, description="dev captions printed after each epoch")
    tensorboard: bool = Field(True, description="write TensorBoard logs into the run folder")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="what the decoder or the towers compute in while they train and are scored on dev, and an encoder while it learns; weights, frozen encoders and what comes out of training stay float32. bfloat16 suits CPUs and GPUs that have it, float16 suits GPUs (Keras scales the loss)",
    )


# Settings of one stage only.
STAGE_SETTINGS: dict[str, tuple[str, ...]] = {
    "finetune": ("tuned_layers", "encoder_learning_rate"),
    "scst": ("samples", "baseline", "xe_share"),
    "align": tuple(own_fields(AlignmentSettings)),
}

# Settings of random crops, which stage=finetune makes anew in every epoch, and other stages where crops asks for some.
CROP_SETTINGS = ("crop", "colour_jitter")

# Settings that a stage has no use for.
_UNUSED: dict[str, tuple[str, ...]] = {
    "finetune": ("crops",),
    "scst": ("attention_penalty", "accumulate"),
    "align": (
        *("decoder", *DECODER_SETTINGS, "embedding", *EMBEDDING_SETTINGS),
        *("label_smoothing", "attention_penalty", "dev_beam_size"),
        *("beam_size", "length_penalty", "no_repeat_ngram", "min_length", "consensus"),
    ),
}


class DecodingSettings(CaptionSettings):
    """Decoding"""

    beam_size: int = Field(3, ge=1, le=100, description="hypotheses kept per image; 1 is greedy search")
    length_penalty: float = Field(
        1.0, ge=0, le=5, description="a in log p / length^a: 0 ranks by probability, 1 by probability per word"
    )
    no_repeat_ngram: int = Field(0, ge=0, le=10, description="n-grams of this size never repeat; 0: no blocking")
    min_length: int = Field(1, ge=1, description="words before a caption may end")
    consensus: bool = Field(
        False, description="rank a beam's captions by how much each is like all of them; wants a beam_size of 20"
    )
    decode_batch_size: int = Field(100, ge=1, description="images captioned at once")


class Config(DecodingSettings, TrainingSettings, AlignmentSettings, EncoderSettings, DataSettings):
    """All settings of a run. Immutable; ``with_overrides`` gives a changed, validated copy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> "Config":
        if self.dataset == "folder" and not self.captions_file:
            raise ValueError("captions_file: dataset=folder needs it (a .csv or .jsonl file)")
        if self.dataset == "karpathy" and not self.captions_file:
            raise ValueError("captions_file: dataset=karpathy needs it (a split file, such as dataset_coco.json)")
        if self.dataset not in ("folder", "karpathy", "flickr30k") and self.captions_file:
            raise ValueError(
                f"captions_file: only dataset=folder, karpathy or flickr30k read it, and dataset is {self.dataset}; "
                "--captions-file none unsets it"
            )
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError(
                "dev_fraction: with test_fraction it leaves nothing to train on; their sum must be below 1"
            )
        for checksum in self.download_checksums:
            if not re.fullmatch(r"md5:[0-9a-fA-F]{32}|sha256:[0-9a-fA-F]{64}", checksum):
                raise ValueError(f"download_checksums: {checksum!r} is not md5: or sha256: and that many hex digits")
        if self.download_checksums and len(self.download_checksums) != len(self.download_urls):
            raise ValueError(
                f"download_checksums: {len(self.download_checksums)} for {len(self.download_urls)} download_urls; "
                "give one for each, or none (empty)"
            )
        if self.min_length > self.max_caption_length:
            raise ValueError(
                f"min_length: {self.min_length} is above max_caption_length, which is {self.max_caption_length}"
            )
        if self.optimizer != "adamw":
            self._refuse_unread(
                "weight_decay", f"only optimizer=adamw decays weights, and optimizer is {self.optimizer}"
            )
        for setting, readers in (("decoder", DECODER_SETTINGS), ("embedding", EMBEDDING_SETTINGS)):
            chosen = getattr(self, setting)
            for name, kinds in readers.items():
                if chosen not in kinds:
                    self._refuse_unread(name, f"only {' and '.join(kinds)} read it, and {setting} is {chosen}")
        reads_bert = self.vocabulary == "wordpieces" or self.embedding in ("bert-static", "bert-prefix")
        if not reads_bert:
            readers = "embedding=bert-static, embedding=bert-prefix and vocabulary=wordpieces"
            self._refuse_unread("bert", f"only {readers} read it, and they are {self.embedding} and {self.vocabulary}")
        if self.embedding == "file" and not self.embedding_file:
            raise ValueError(
                "embedding_file: embedding=file needs it (text in word2vec's, GloVe's or fastText's format)"
            )
        if self.feature_grid == 1 and self.decoder not in ("merge", "inject"):
            raise ValueError(
                f"feature_grid: with 1 there is nothing to choose from; the decoder {self.decoder} wants 0"
            )
        if self.decoder == "transformer" and self.hidden_size % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide hidden_size, which is {self.hidden_size}")
        if self.stage in ("finetune", "scst") and not self.init:
            raise ValueError(f"init: stage={self.stage} improves a trained captioner; name its run folder")
        for stage, names in STAGE_SETTINGS.items():
            for name in names:
                if self.stage != stage:
                    self._refuse_unread(name, f"only stage={stage} reads it, and stage is {self.stage}")
        for name in CROP_SETTINGS:
            if self.stage != "finetune" and not self.crops:
                self._refuse_unread(name, "only stage=finetune and crops read it, and crops is 0")
        for name in _UNUSED.get(self.stage, ()):
            self._refuse_unread(name, f"stage={self.stage} does not use it")
        if (self.stage == "align") != (self.monitor == "recall"):
            raise ValueError(f"monitor: recall and stage=align need one another; stage is {self.stage}")
        for name, loss in (("temperature", "infonce"), ("margin", "triplet")):
            if self.alignment_loss != loss:
                self._refuse_unread(
                    name, f"only alignment_loss={loss} reads it, and alignment_loss is {self.alignment_loss}"
                )
        if self.decoder not in ("attention", "transformer"):
            why = f"the decoder {self.decoder} has no attention that it could steer"
            self._refuse_unread("attention_penalty", why)
        if (
            self.dataset in ("demo", "coco", "flickr30k")
            and self.data_dir == DataSettings.model_fields["data_dir"].default
        ):
            raise ValueError(f"data_dir: dataset={self.dataset} needs a folder of its own, such as data/{self.dataset}")
        if self.encoder.endswith(".keras") and self.encoder_weights != "imagenet":
            raise ValueError("encoder_weights: the saved model named by encoder brings its own; leave this unset")
        return self

    def _refuse_unread(self, name: str, why: str) -> None:
        """Refuse a setting that nothing would read, unless it is at its default."""
        default = Config.model_fields[name].default
        if getattr(self, name) != default:
            advice = "leave it out" if default == "" else f"leave it at {default}, the default"
            raise ValueError(f"{name}: {why}; {advice}")

    def with_overrides(self, overrides: dict[str, Any], source: str = "the command line") -> "Config":
        """A copy with ``overrides`` (values may be strings, as typed). Raises UserError naming each bad setting."""
        return validated({**self.model_dump(), **overrides}, source)

    @property
    def votes(self) -> bool:
        """Whether consensus decides: two captions cannot outvote one another."""
        return self.consensus and self.beam_size > 2

    def dev_search(self) -> "Config":
        """The settings by which training captions dev."""
        # Not validated anew: the curves of an aligner, which may have no beam_size, are drawn by the same code.
        return self.model_copy(update={"beam_size": self.dev_beam_size})

    def decoding(self) -> dict[str, Any]:
        """The settings that decide which captions come out of a search, by name."""
        names = [*set(own_fields(DecodingSettings)) - {"decode_batch_size"}, "max_caption_length"]
        return {name: getattr(self, name) for name in sorted(names)}

    def to_json(self) -> str:
        """The settings as indented JSON text, readable by ``from_json``."""
        return json.dumps(self.model_dump(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "Config":
        """Read what ``to_json`` wrote. Missing settings take their defaults. Raises UserError naming ``source``."""
        return validated(json_object(text, source), source, strict=True)


# Pooled ResNet50 captioners in the sizes of dabasajay/Image-Caption-Generator (image and word vectors 300, LSTM 256). The recipe
# departs from its own, chosen on dev: dropout .5 instead of .3, label smoothing, a cosine, and the decoding.
_FLICKR8K: dict[str, Any] = {
    "dropout": 0.5,
    "label_smoothing": 0.1,
    "schedule": "cosine",
    "warmup_steps": 200,
    "length_penalty": 0.4,
    "min_length": 7,
    "no_repeat_ngram": 2,
}

# Attention over the 7 x 7 grid. Chosen on dev: the decoding, with the attention decoder, and the dropout of the other two.
_FLICKR8K_GRID: dict[str, Any] = {
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

# Show, Attend and Tell as its widespread reimplementations train it on COCO: embedding, LSTM and attention of 512, Adam at
# 4e-4, dropout .5, the doubly stochastic penalty with weight 1. Theirs look at 14 x 14 regions, this at the encoder's own
# 7 x 7: 25 GB of features, where 14 x 14 would be 99. Nothing here has been tuned, and no score is known yet.
_COCO_ATTENTION: dict[str, Any] = {
    "dataset": "coco",
    "data_dir": "data/coco",
    "feature_grid": 0,
    "decoder": "attention",
    "embedding_size": 512,
    "hidden_size": 512,
    "attention_size": 512,
    "dropout": 0.5,
    "learning_rate": 4e-4,
    "attention_penalty": 1.0,
}

# Two towers, for retrieval: much to hold them back, since they tell 6,000 images apart by heart in a few epochs.
_ALIGN: dict[str, Any] = {
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

# Presets hold only what differs from the defaults above.
PRESETS: dict[str, dict[str, Any]] = {
    # Generated scenes and the shipped encoder: the whole path, offline, within five minutes on two CPU cores. Nine regions,
    # because a relation is a matter of place; the loss as monitor, because BLEU mostly tells wordings apart here.
    "demo": {
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
    "flickr8k-merge": _FLICKR8K | {"decoder": "merge"},
    "flickr8k-inject": _FLICKR8K | {"decoder": "inject"},
    "flickr8k-attention": _FLICKR8K_GRID | {"decoder": "attention", "dropout": 0.5},
    # The default dropout is 0.3; with 0.5 both are still learning when these epochs end.
    "flickr8k-adaptive": _FLICKR8K_GRID | {"decoder": "adaptive", "epochs": 10},
    "flickr8k-transformer": _FLICKR8K_GRID | {"decoder": "transformer"},
    # The captioner that comes with this repository: the shipped encoder, the same decoder.
    "pocket": _FLICKR8K_GRID | {"decoder": "attention", "dropout": 0.5, "encoder": "efficientnet_lite0", "epochs": 14},
    "coco-attention": _COCO_ATTENTION,
    "flickr8k-align": _ALIGN | {"stage": "align", "feature_grid": 0, "mirror": True},
}

# What a stage changes in the settings that it starts from: those of a run (init) or, for align alone, of a preset.
STAGES: dict[str, dict[str, Any]] = {
    # Chosen on dev with ResNet50 and attention: all layers of the encoder learn, and the decoder as fast as it did at first.
    "finetune": {
        "learning_rate": 5e-4,
        "warmup_steps": 50,
        "ema_decay": 0.99,
        "epochs": 14,
        "batch_size": 60,
        "accumulate": 1,
        "crops": 0,
        "monitor": "cider",
    },
    "scst": {
        "learning_rate": 1e-4,
        "batch_size": 32,
        "warmup_steps": 0,
        "epochs": 10,
        "label_smoothing": 0.0,
        "word_dropout": 0.0,
        "attention_penalty": 0.0,
        "accumulate": 1,
        "ema_decay": 0.99,
        "monitor": "cider",
    },
    "align": {name: Config.model_fields[name].default for name in (*_UNUSED["align"], "learning_rate")} | _ALIGN,
}

# What the encoder and the vocabulary of a captioner were made for, and what all its weights were.
KEPT_SETTINGS = set(own_fields(EncoderSettings)) - {"feature_dir", "extract_batch_size"}
KEPT_SETTINGS |= {"vocabulary", "vocab_threshold"}
SHAPING_SETTINGS = KEPT_SETTINGS | set(own_fields(DecoderSettings)) - {"dropout"}

# Fixed by training: scripts that load a trained captioner refuse to change these.
TRAINED_SETTINGS = (
    set(own_fields(EncoderSettings)) - {"feature_dir", "extract_batch_size"}
    | set(own_fields(DecoderSettings))
    | set(own_fields(AlignmentSettings))
    | set(own_fields(BatchSettings))
    | set(own_fields(OptimizerSettings))
    | set(own_fields(TrainingSettings))
    | {"vocabulary", "vocab_threshold"}
)


def search_name(config: Config) -> str:
    """What the search with these settings is called in tables and logs."""
    name = "greedy" if config.beam_size == 1 else f"beam {config.beam_size}"
    return f"{name}, consensus" if config.votes else name


def json_object(text: str, source: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected a JSON object of settings, found {type(values).__name__}")
    return _modern(values)


# Settings of one stage that have another default now. Other stages, which do not read them, wrote the one of then.
_FORMER_DEFAULTS = {
    "xe_share": ("scst", 0.2),
    "tuned_layers": ("finetune", 29),
    "encoder_learning_rate": ("finetune", 1e-5),
}


def _modern(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as this release calls them, of runs and bundles that an earlier one wrote."""
    values = dict(values)
    if isinstance(values.get("mixed_precision"), bool) and "precision" not in values:
        values["precision"] = "float16" if values.pop("mixed_precision") else "float32"
    for name, (stage, default) in _FORMER_DEFAULTS.items():
        if values.get(name) == default and values.get("stage") != stage:
            del values[name]
    return values


def validated(values: dict[str, Any], source: str, strict: bool = False) -> Config:
    try:
        # Validating JSON text lets strict mode still read arrays as tuples.
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


def main() -> None:
    from captioning.command_line.options import make_parser
    from captioning.command_line.resolving import resolve

    print(resolve(make_parser(__doc__).parse_args()).to_json(), end="")


if __name__ == "__main__":
    from captioning.base.script import run_script

    run_script(main)
