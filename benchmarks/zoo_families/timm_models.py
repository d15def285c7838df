"""timm: one architecture of each of its families, the smallest, or fewer and narrower layers of the same kind."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from benchmarks.zoo_recipes import Recipe, image

__all__ = ["LEFT_OUT", "recipes"]

_CLASSES = 10
LEFT_OUT = {
    "inception_resnet_v2": "no variant below 55 million parameters",
    "inception_v3": "the one of torchvision is here",
    "inception_v4": "no variant below 42 million parameters",
    "pnasnet": "no variant below 86 million parameters",
    "vgg": "the one of torchvision is here",
}
"""Families of timm that are not in the zoo."""

_VIT = {"img_size": 64, "embed_dim": 96, "depth": 3, "num_heads": 3}
_SHALLOW = {"depths": (1, 1, 1, 1)}
# Family: variant, image size, options.
_VARIANTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", 64, _VIT),
    "byoanet": ("lambda_resnet26t", 64, {}),
    "byobnet": ("mobileone_s0", 64, {}),
    "cait": ("cait_xxs24_224", 64, {"img_size": 64, "depth": 3}),
    "coat": ("coat_lite_tiny", 64, {"img_size": 64}),
    "convit": ("convit_tiny", 64, {"img_size": 64, "depth": 4, "local_up_to_layer": 2}),
    "convmixer": ("convmixer_768_32", 65, {"dim": 128, "depth": 4}),
    "convnext": ("convnext_atto", 64, {}),
    "cpubone": ("cpubone_nano", 64, {}),
    "crossvit": ("crossvit_9_240", 120, {"img_size": 120}),
    "csatv2": ("csatv2", 128, {}),
    "cspnet": ("cs3darknet_focus_s", 64, {}),
    "cspnext": ("cspnext_tiny", 64, {}),
    "davit": ("davit_tiny", 64, {**_SHALLOW, "embed_dims": (32, 64, 96, 128), "num_heads": (2, 4, 6, 8)}),
    "deepseek_vit": ("deepseek_vit_412m", 56, {**_VIT, "img_size": 56}),
    "deit": ("deit_tiny_distilled_patch16_224", 64, {"img_size": 64, "depth": 4}),
    "densenet": ("densenetblur121d", 64, {"block_config": (2, 2, 2, 2)}),
    "dla": ("dla46x_c", 64, {}),
    "dpn": ("dpn48b", 64, {}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "efficientformer": ("efficientformer_l1", 224, {"embed_dims": (24, 32, 64, 96)}),
    "efficientformer_v2": ("efficientformerv2_s0", 64, {"img_size": 64}),
    "efficientnet": ("tf_efficientnet_lite0", 64, {}),
    "efficientvim": ("efficientvim_m1", 128, {}),
    "efficientvit_mit": ("efficientvit_b0", 64, {}),
    "efficientvit_msra": ("efficientvit_m0", 224, {}),
    "eva": ("eva02_tiny_patch14_224", 56, {"img_size": 56, "depth": 3}),
    "fasternet": ("fasternet_t0", 64, {}),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 64, {"depths": (1, 1, 2, 1), "embed_dim": 32}),
    "gcvit": ("gcvit_xxtiny", 64, {"img_size": 64, **_SHALLOW}),
    "gemma4_vit": ("gemma4_vit_167m", 64, _VIT),
    "ghostnet": ("ghostnet_050", 64, {}),
    "hardcorenas": ("hardcorenas_a", 64, {}),
    "hgnet": ("hgnetv2_b0", 64, {}),
    "hiera": ("hiera_tiny_224", 64, {"img_size": (64, 64), "embed_dim": 32, "stages": (1, 1, 2, 1)}),
    "hieradet_sam2": ("hieradet_small", 64, {"embed_dim": 32, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)}),
    "hrnet": ("hrnet_w18_small", 64, {}),
    "iformer": ("iformer_t", 64, {}),
    "inception_next": ("inception_next_atto", 64, {}),
    "lcnetv2": ("lcnetv2_small", 64, {}),
    "levit": ("levit_128s", 224, {}),
    "lowformer": ("lowformer_b0", 64, {}),
    "mambaout": ("mambaout_femto", 64, {}),
    "maxxvit": ("coatnet_pico_rw_224", 64, {"img_size": 64}),
    "metaformer": ("poolformer_s12", 64, {**_SHALLOW, "dims": (32, 64, 96, 128)}),
    "mlp_mixer": ("gmlp_ti16_224", 64, {"img_size": 64, "num_blocks": 4}),
    "mobilenetv3": ("mobilenetv4_conv_small_050", 64, {}),
    "mobilenetv5": ("mobilenetv5_base", 64, {"channel_multiplier": 0.125}),
    "mobilevit": ("mobilevitv2_050", 64, {}),
    "mvitv2": ("mvitv2_tiny", 64, {"img_size": 64, "model_cfg": {**_SHALLOW, "embed_dim": 32}}),
    "naflexvit": ("naflexvit_base_patch16_gap", 64, {"embed_dim": 96, "depth": 3, "num_heads": 3}),
    "nasnet": ("nasnetalarge", 64, {"stem_size": 16, "num_features": 384}),
    "nest": (
        "nest_tiny",
        64,
        {"img_size": 64, "embed_dims": (32, 64, 128), "num_heads": (2, 4, 8), "depths": (1, 1, 2)},
    ),
    "nextvit": ("nextvit_small", 64, {"depths": (1, 1, 5, 1)}),
    "nfnet": ("nf_regnet_b0", 64, {}),
    "pit": ("pit_ti_224", 64, {"img_size": 64}),
    "pvt_v2": ("pvt_v2_b0", 64, {}),
    "qwen3_vit": ("qwen3_vit_88m", 64, _VIT),
    "rdnet": ("rdnet_tiny", 64, {}),
    "regnet": ("regnetx_002", 95, {}),
    "repghost": ("repghostnet_050", 64, {}),
    "repvit": ("repvit_m0_9", 64, {}),
    "res2net": ("res2net50_14w_8s", 64, {"layers": (1, 1, 1, 1)}),
    "resnest": ("resnest14d", 64, {}),
    "resnet": ("resnet10t", 64, {}),
    "resnetv2": ("resnetv2_50x1_bit", 64, {"layers": (1, 1, 1, 1)}),
    "rexnet": ("rexnet_100", 64, {}),
    "selecsls": ("selecsls42b", 64, {}),
    "senet": ("legacy_seresnet18", 64, {}),
    "sequencer": (
        "sequencer2d_s",
        64,
        {"layers": (1, 1, 1, 1), "embed_dims": (32, 64, 64, 64), "hidden_sizes": (8, 16, 16, 16)},
    ),
    "shvit": ("shvit_s1", 64, {}),
    "sknet": ("skresnet18", 64, {}),
    "starnet": ("starnet_s050", 64, {}),
    "swiftformer": ("swiftformer_xs", 64, {}),
    "swin_transformer": (
        "swin_tiny_patch4_window7_224",
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8)},
    ),
    "swin_transformer_v2": (
        "swinv2_tiny_window8_256",
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8)},
    ),
    "swin_transformer_v2_cr": (
        "swinv2_cr_tiny_224",
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 32, "depths": (2, 2, 2, 1), "num_heads": (2, 4, 8, 8)},
    ),
    "tiny_vit": ("tiny_vit_5m_224", 64, {"window_sizes": (4, 4, 4, 2)}),
    "tnt": ("tnt_s_patch16_224", 64, {"img_size": 64, "depth": 2}),
    "tresnet": ("tresnet_m", 64, {"layers": (1, 1, 1, 1)}),
    "twins": (
        "twins_svt_small",
        64,
        {"img_size": 64, **_SHALLOW, "embed_dims": (32, 64, 96, 128), "num_heads": (2, 4, 6, 8)},
    ),
    "visformer": ("visformer_tiny", 64, {"img_size": 64}),
    "vision_transformer": ("vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 4}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 64, {"img_size": 64, "depth": 3}),
    "vision_transformer_relpos": ("vit_relpos_small_patch16_224", 64, {**_VIT}),
    "vision_transformer_sam": (
        "samvit_base_patch16_224",
        64,
        {**_VIT, "global_attn_indexes": (2,), "window_size": 3, "neck_chans": 32},
    ),
    "vitamin": ("vitamin_small_224", 64, {"img_size": 64, "depth": 2}),
    "volo": (
        "volo_d1_224",
        64,
        {"img_size": 64, "layers": (1, 1, 1, 1), "embed_dims": (64, 96, 96, 96), "num_heads": (2, 3, 3, 3)},
    ),
    "vovnet": ("ese_vovnet19b_slim_dw", 64, {}),
    "xception": ("legacy_xception", 71, {}),
    "xception_aligned": ("xception41p", 64, {}),
    "xcit": ("xcit_nano_12_p16_224", 64, {"img_size": 64, "depth": 4}),
}

_FIXED = {"convmixer", "focalnet", "gcvit", "metaformer", "mlp_mixer", "mvitv2", "nest", "resnetv2", "volo"}
"""Families whose variants set the options themselves and take no others."""


def recipes() -> list[Recipe]:
    """All of them."""
    return [_recipe(family, *variant) for family, variant in _VARIANTS.items()]


def _recipe(family: str, variant: str, size: int, options: dict[str, Any]) -> Recipe:
    make = _overridden(family, variant, options) if family in _FIXED else _made(variant, options)
    return Recipe(f"timm-{variant}", "timm", "torch", make, {"x": image(size)})


def _made(variant: str, options: dict[str, Any]) -> Callable[[], Any]:
    def make() -> Any:
        import timm

        return timm.create_model(variant, pretrained=False, num_classes=_CLASSES, **options)

    return make


def _overridden(family: str, variant: str, options: dict[str, Any]) -> Callable[[], Any]:
    """The variant with its own options replaced on their way to the network's class."""

    def make() -> Any:
        module = importlib.import_module(f"timm.models.{family}")
        build = module.build_model_with_cfg

        def built(*arguments: Any, **given: Any) -> Any:
            changed = {**given, **options}
            if "model_cfg" in options:
                changed["model_cfg"] = dataclasses.replace(given["model_cfg"], **options["model_cfg"])
            return build(*arguments, **changed)

        module.build_model_with_cfg = built
        try:
            return _made(variant, {})()
        finally:
            module.build_model_with_cfg = build

    return make
