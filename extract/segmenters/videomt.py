"""VidEoMT of `transformers`: a plain ViT whose queries go on from frame to frame.

The library holds the weights; its forward takes a whole clip and keeps what every frame says. Here
the layers that see one frame alone take a chunk, and those with queries one frame after the other,
from the queries of the frame before: memory does not grow with the video.

Norouzi et al., "Your ViT is Secretly Also a Video Segmentation Model", CVPR 2026.
"""

import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import transformers
from huggingface_hub import constants, snapshot_download
from torch import Tensor
from transformers.activations import ACT2FN
from transformers.utils.logging import disable_progress_bar

from cache_schema.fingerprint import file_sha256
from cache_schema.host.cli import InputError
from cache_schema.records import ACTIVATIONS
from extract.frozen import freeze
from extract.segmenters.base import FrameOutput, Segmenter, VideoOutput
from extract.segmenters.preprocessing import Preprocessor
from extract.text.hub import check_reachable

disable_progress_bar()  # of loading weights: the run has one of its own

#: What makes a checkpoint in the layout of `save_pretrained`.
FILES = ("config.json", "*.safetensors")
#: What a checkpoint may lack: of the losses, and of how attention was masked in training.
UNUSED = {"criterion.empty_weight", "attn_mask_probs"}
SIZE = (1, 1 << 16)


@dataclass(frozen=True)
class VidEoMTConfig:
    """Sizes by the library's names, but for ``num_classes``; by default those of the large models.

    Attributes:
        image_size: frames are resized to this height and width, whatever their shape.
        num_blocks: of the layers, the last ones, which queries join.
        num_classes: K, without no-object.
        keep: queries of a video that are stored, those of the best S_v; None stores all.

    Raises:
        InputError: sizes that do not go together.
    """

    num_classes: int
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_blocks: int = 4
    num_queries: int = 200
    image_size: int = 640
    patch_size: int = 16
    num_upscale_blocks: int = 2
    num_register_tokens: int = 4
    mlp_ratio: int = 4
    use_swiglu_ffn: bool = False
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    keep: int | None = 50

    RANGES: ClassVar = {
        **dict.fromkeys(("num_classes", "hidden_size", "num_attention_heads"), SIZE),
        **dict.fromkeys(("num_queries", "image_size", "patch_size", "mlp_ratio", "keep"), SIZE),
        **dict.fromkeys(("num_hidden_layers", "num_blocks"), (1, 256)),
        "num_upscale_blocks": (1, 8),
        "num_register_tokens": (0, 1 << 16),
    }

    def __post_init__(self) -> None:
        if self.num_blocks > self.num_hidden_layers:
            raise InputError(
                f"segmenter.num_blocks is {self.num_blocks}, of {self.num_hidden_layers}"
            )
        for name, what, by in (
            ("hidden_size", "num_attention_heads", self.num_attention_heads),
            ("image_size", "patch_size", self.patch_size),
            ("patch_size", "2 ** num_upscale_blocks", 2**self.num_upscale_blocks),
        ):
            if getattr(self, name) % by:
                raise InputError(
                    f"segmenter.{name} is {getattr(self, name)}, no multiple of {what} = {by}"
                )
        if self.hidden_act not in ACT2FN:
            raise InputError(f"segmenter.hidden_act is {self.hidden_act!r}: transformers has none")

    def sizes(self) -> dict[str, Any]:
        """What weights are built for, by the library's names."""
        sizes = asdict(self)
        del sizes["keep"]
        return {"num_labels": sizes.pop("num_classes"), **sizes}

    def library(self) -> Any:
        """The library's configuration."""
        return library("Config")(**self.sizes())


class VidEoMT(Segmenter):
    """VidEoMT for inference.

    Frame queries are the query tokens after the last norm, video queries their mean over time, as
    class logits are the mean of every frame's. Mask embeddings change from frame to frame. Patch
    tokens see the queries, so that a clip from another first frame would have slightly other mask
    features; those of the video are stored, and clips' masks are theirs with the clip's embeddings.

    Attributes:
        autocast: None, or the narrow type that the layers multiply in; the mask features, masks
            and classes stay float32.
    """

    Config = VidEoMTConfig
    identity = True

    def __init__(self, config: VidEoMTConfig, model: Any = None) -> None:
        super().__init__()
        self.config, self.keep = config, config.keep
        self.model = model or library("ForUniversalSegmentation")(config.library())
        self.query_dim = self.mask_dim = config.hidden_size
        self.num_classes, self.divisor = config.num_classes, config.patch_size
        self.stride = config.patch_size // 2**config.num_upscale_blocks
        if config.hidden_act in ACTIVATIONS:
            layers = self.model.mask_head
            self.mask_head = [layers.fc1, layers.fc2, layers.fc3]
            self.activation = config.hidden_act
        freeze(self)

    @classmethod
    def load(cls, config: VidEoMTConfig, weights: str) -> Self:
        """One with the weights of a folder that `save_pretrained` wrote, or of the hub.

        Raises:
            InputError: there is no such model, or it has not the configured sizes.
        """
        kind, folder = library("ForUniversalSegmentation"), find_folder(weights)
        try:
            found = library("Config").from_pretrained(folder, local_files_only=True)
            if found.model_type != "videomt":
                raise ValueError(f"it is of type {found.model_type!r}")
            for name, value in config.sizes().items():
                if (there := getattr(found, name)) != value:
                    name = "num_classes" if name == "num_labels" else name
                    raise InputError(
                        f"segmenter.{name} is {value}, but {weights} has {there}: set it to that, "
                        "or take the preset of these weights"
                    )
            model, report = kind.from_pretrained(
                folder,
                config=config.library(),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except InputError:
            raise
        # The library raises many types here, and every one means "not a usable model".
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
            raise InputError(f"{weights} cannot be loaded as VidEoMT ({reason})") from error
        for what, keys in (("lacks", "missing_keys"), ("has unknown", "unexpected_keys")):
            if wrong := sorted(set(report[keys]) - UNUSED):
                raise InputError(
                    f"{weights} {what} weights, {len(wrong)} of them ({', '.join(wrong[:3])}): "
                    f"they belong to another model, or to another version of transformers"
                )
        return cls(config, model)

    @classmethod
    def digest(cls, weights: str) -> str:
        """SHA-256 of the one file of weights, or of the digests of several."""
        files = [file_sha256(path) for path in sorted(find_folder(weights).glob(FILES[1]))]
        return files[0] if len(files) == 1 else hashlib.sha256("".join(files).encode()).hexdigest()

    def preprocessor(self, short: int | None, longest: int | None) -> Preprocessor:
        """Frames become squares, as position embeddings want; nothing else can be asked for."""
        if short is not None or longest is not None:
            raise InputError(
                f"resize is short={short}, max={longest}, but VidEoMT takes frames of "
                f"segmenter.image_size = {self.config.image_size} in both directions: "
                "set resize=None"
            )
        made = super().preprocessor(short, longest)
        made.square = self.config.image_size
        return made

    @torch.inference_mode()
    def frames(self, images: Tensor, state: Tensor | None = None) -> tuple[FrameOutput, Tensor]:
        """See `Segmenter.frames`; the state is the queries (N_f, C) of the last frame."""
        with self._narrow():
            tokens = self.model.embeddings(images)  # (t, prefix + patches, C)
            for layer in self.model.layers[: -self.config.num_blocks]:
                tokens = layer(tokens)
        tokens = tokens.float()
        queries, state, patches = self._follow(tokens, state)
        features = self.model.upscale_block(patches).contiguous()  # (t, C, h, w)
        return self._said(queries, features, {"tokens": tokens}), state

    @torch.inference_mode()
    def clip_frames(
        self, images: Tensor, seen: FrameOutput, state: Tensor | None
    ) -> tuple[FrameOutput, Tensor]:
        """See `Segmenter.clip_frames`."""
        queries, state, _ = self._follow(seen.shared["tokens"], state)
        return self._said(queries, seen.mask_features, seen.shared), state

    def _follow(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The layers that queries join, over frames (t, prefix + patches, C) in turn.

        Returns:
            Queries (t, N_f, C) after the norm, those of the last frame before it, (N_f, C), and
            patches (t, C, rows, columns) after it.
        """
        model, number = self.model, self.config.num_queries
        prefix = model.embeddings.num_prefix_tokens
        queries, patches = [], []
        for frame in tokens:
            with self._narrow():
                own = model.query.weight
                own = own if state is None else model.query_updater(state) + own
                hidden = torch.cat([own, frame])[None]  # (1, N_f + prefix + patches, C)
                for layer in model.layers[-self.config.num_blocks :]:
                    hidden = layer(hidden)
            hidden = hidden[0].float()
            normed = model.layernorm(hidden)
            queries.append(normed[:number])
            patches.append(normed[number + prefix :].unflatten(0, model.grid_size))
            state = hidden[:number].clone()  # a view would keep all tokens
        # The library's upscaling of maps with channels last in memory is a tenth faster.
        return torch.stack(queries), state, torch.stack(patches).permute(0, 3, 1, 2)

    def _said(self, queries: Tensor, features: Tensor, shared: dict[str, Tensor]) -> FrameOutput:
        logits = self.model.class_predictor(queries)  # (t, N_f, K+1)
        return FrameOutput(queries, features, {"logits": logits}, shared)

    @torch.inference_mode()
    def video(self, frame_queries: Tensor, logits: Tensor) -> VideoOutput:
        """See `Segmenter.video`."""
        embeds = torch.empty_like(frame_queries)  # whole: see `ClipFrames`
        for t, frame in enumerate(frame_queries.unbind(1)):
            embeds[:, t] = self.model.mask_head(frame)
        return VideoOutput(frame_queries.mean(1), logits.mean(1), embeds)


def library(name: str) -> Any:
    """A class ``Videomt<name>`` of `transformers`.

    Raises:
        InputError: the installed version does not know the model.
    """
    try:
        return getattr(transformers, f"Videomt{name}")
    except AttributeError:
        raise InputError(
            "segmenter.type='videomt' needs transformers 5.8 or newer, and "
            f"{transformers.__version__} is installed: pip install -U transformers"
        ) from None


def find_folder(weights: str) -> Path:
    """The folder of a checkpoint: a local one, or the copy of the hub's, fetched if it has to be.

    Raises:
        InputError: it is no complete checkpoint, or the hub cannot be reached.
    """
    folder = Path(weights)
    if folder.exists() or folder.is_absolute() or weights.startswith(".") or weights.count("/") > 1:
        if not _complete(folder):
            raise InputError(
                f"VidEoMT's weights: {weights} is no folder with {' and '.join(FILES)}, as "
                "save_pretrained writes them; give one, or a name on the Hugging Face hub"
            )
        return folder
    with suppress(Exception):  # it is not here yet
        folder = Path(snapshot_download(weights, allow_patterns=FILES, local_files_only=True))
        if _complete(folder):
            return folder
    advice = "where there is a network, `hf download` it, then give its folder as --weights"
    check_reachable(constants.ENDPOINT, what=f"VidEoMT's weights: {weights}", advice=advice)
    try:
        folder = Path(snapshot_download(weights, allow_patterns=FILES))
    except Exception as error:  # whatever the hub's client raises
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"VidEoMT's weights: {weights} cannot be fetched ({reason})") from error
    if not _complete(folder):
        raise InputError(f"VidEoMT's weights: {weights} lacks {' or '.join(FILES)} on the hub")
    return folder


def _complete(folder: Path) -> bool:
    return folder.is_dir() and all(any(folder.glob(pattern)) for pattern in FILES)
