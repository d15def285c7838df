"""transformers: encoders, decoders with logits, encoder-decoders, vision, speech and joint networks.

Each with its own architecture and a configuration of two layers or so; attention as transformers chooses it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.zoo_recipes import Feed, Recipe, audio, features, image, mask, spectrogram, tokens, video

__all__ = ["recipes"]

_LENGTH = 16
_VOCABULARY = 500
_LABELS = 5
_TEXT = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": _LABELS,
}
_CAUSAL = {**_TEXT, "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}
_VISION = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_labels": _LABELS,
}
_PYRAMID = {"image_size": 64, "num_labels": _LABELS}
_SPEECH = {
    **_TEXT,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}


def _less(base: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """What networks of a kind are given, less what this one refuses to be told."""
    return {key: value for key, value in base.items() if key not in keys}


_DUAL = {
    "text_config": _less(_TEXT, "num_labels"),
    "vision_config": _less(_VISION, "num_labels"),
    "projection_dim": 32,
}
_IDS: dict[str, Feed] = {"input_ids": tokens(_LENGTH, _VOCABULARY), "attention_mask": mask(_LENGTH)}
_IDS_ALONE: dict[str, Feed] = {"input_ids": tokens(_LENGTH, _VOCABULARY, padded=False)}
_PIXELS: dict[str, Feed] = {"pixel_values": image(64)}
_SOUND: dict[str, Feed] = {"input_values": audio(4_000)}
_PAIR: dict[str, Feed] = {**_IDS, "decoder_input_ids": tokens(8, _VOCABULARY, padded=False)}
_JOINT: dict[str, Feed] = {**_IDS, **_PIXELS}
_LOGITS = ("logits",)
_HIDDEN = ("last_hidden_state",)


def recipes() -> list[Recipe]:
    """All of them."""
    return [*_encoders(), *_decoders(), *_encoder_decoders(), *_vision(), *_dense_vision(), *_speech(), *_joint()]


def _recipe(
    name: str, feeds: Mapping[str, Feed], model: str, outputs: tuple[str, ...], base: Mapping[str, Any], **options: Any
) -> Recipe:
    made = _made(model, {**base, **options}, tuple(feeds), outputs)
    return Recipe(f"transformers-{name}", "transformers", "torch", made, feeds)


def _made(model: str, options: dict[str, Any], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        from benchmarks.zoo_families.plain_outputs import plain

        kind = getattr(transformers, model)
        return plain(kind(kind.config_class(**options)), inputs, outputs)

    return make


def _encoders() -> list[Recipe]:
    def text(name: str, model: str, outputs: tuple[str, ...] = _LOGITS, **options: Any) -> Recipe:
        return _recipe(name, _IDS, model, outputs, _TEXT, **options)

    distil = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
    deberta = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16}
    funnel = {"d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128, "block_sizes": [1, 1]}
    xlnet = {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128}
    mobile = {"embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2}
    return [
        text("bert", "BertForSequenceClassification"),
        text("bert_two_outputs", "BertModel", ("last_hidden_state", "pooler_output")),
        text("roberta", "RobertaForSequenceClassification"),
        text("distilbert", "DistilBertForSequenceClassification", **distil),
        text("albert", "AlbertForSequenceClassification", embedding_size=32),
        text("electra", "ElectraForSequenceClassification", embedding_size=32),
        text("mpnet", "MPNetForSequenceClassification"),
        text("deberta_v2", "DebertaV2ForSequenceClassification", **deberta),
        text("mobilebert", "MobileBertForSequenceClassification", **mobile),
        text("squeezebert", "SqueezeBertForSequenceClassification", embedding_size=64),
        text("convbert", "ConvBertForSequenceClassification", embedding_size=64, conv_kernel_size=5),
        _recipe(
            "funnel", _IDS, "FunnelForSequenceClassification", _LOGITS, _less(_TEXT, "num_hidden_layers"), **funnel
        ),
        text("xlm", "XLMModel", _HIDDEN, emb_dim=64, n_layers=2, n_heads=4, n_words=_VOCABULARY, pad_index=0),
        _recipe("xlnet", _IDS, "XLNetModel", _HIDDEN, _less(_TEXT, "max_position_embeddings"), **xlnet),
        text("modernbert", "ModernBertForSequenceClassification", local_attention=8, cls_token_id=1, sep_token_id=2),
        text("roformer", "RoFormerForSequenceClassification"),
        text("rembert", "RemBertForSequenceClassification", input_embedding_size=32, output_embedding_size=32),
        text("esm", "EsmForSequenceClassification", mask_token_id=3, position_embedding_type="rotary"),
        text("ibert", "IBertForSequenceClassification"),
        text("megatron_bert", "MegatronBertForSequenceClassification"),
        text("t5_encoder", "T5EncoderModel", _HIDDEN, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4),
        _recipe("fnet", _IDS_ALONE, "FNetForSequenceClassification", _LOGITS, _TEXT),
        _recipe("perceiver", {"inputs": features(24, 16)}, "PerceiverModel", _HIDDEN, {}, **_PERCEIVER),
        _recipe("patchtst", {"past_values": features(32, 3)}, "PatchTSTForPrediction", _PREDICTION, {}, **_SERIES),
        _recipe(
            "patchtsmixer", {"past_values": features(32, 3)}, "PatchTSMixerForPrediction", _PREDICTION, {}, **_SERIES
        ),
    ]


_PREDICTION = ("prediction_outputs",)
_PERCEIVER = {
    "d_model": 16,
    "d_latents": 32,
    "num_latents": 8,
    "num_blocks": 1,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 4,
}
_SERIES = {
    "context_length": 32,
    "prediction_length": 8,
    "num_input_channels": 3,
    "patch_length": 8,
    "patch_stride": 8,
    "stride": 8,
    "d_model": 32,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "loss": "mse",
}


def _decoders() -> list[Recipe]:
    def causal(name: str, model: str, **options: Any) -> Recipe:
        return _recipe(name, _IDS, model, _LOGITS, _CAUSAL, **options)

    gpt2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    neo = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8}
    opt = {"ffn_dim": 128, "word_embed_proj_dim": 64}
    return [
        causal("gpt2", "GPT2LMHeadModel", **gpt2),
        causal("gptj", "GPTJForCausalLM", **gpt2, rotary_dim=8),
        causal("codegen", "CodeGenForCausalLM", **gpt2, rotary_dim=8),
        causal("gpt_neo", "GPTNeoForCausalLM", **neo),
        causal("gpt_neox", "GPTNeoXForCausalLM"),
        causal("gpt_bigcode", "GPTBigCodeForCausalLM", **gpt2),
        causal("opt", "OPTForCausalLM", **opt),
        causal("bloom", "BloomForCausalLM", n_layer=2, n_head=4),
        causal("mpt", "MptForCausalLM", d_model=64, n_heads=4, n_layers=2, max_seq_len=64),
        causal("llama", "LlamaForCausalLM"),
        causal("mistral", "MistralForCausalLM", sliding_window=8),
        causal("mixtral", "MixtralForCausalLM", num_local_experts=4),
        causal("qwen2", "Qwen2ForCausalLM"),
        causal("qwen3", "Qwen3ForCausalLM"),
        causal("gemma", "GemmaForCausalLM"),
        causal("gemma2", "Gemma2ForCausalLM", sliding_window=8),
        causal("gemma3", "Gemma3ForCausalLM", sliding_window=8),
        causal("phi", "PhiForCausalLM"),
        causal("phi3", "Phi3ForCausalLM"),
        _recipe("falcon", _IDS, "FalconForCausalLM", _LOGITS, _less(_CAUSAL, "head_dim")),
        causal("stablelm", "StableLmForCausalLM"),
        causal("starcoder2", "Starcoder2ForCausalLM"),
        causal("olmo2", "Olmo2ForCausalLM"),
        causal("granite", "GraniteForCausalLM"),
        causal("cohere", "CohereForCausalLM"),
        causal("biogpt", "BioGptForCausalLM"),
        causal("xglm", "XGLMForCausalLM", d_model=64, ffn_dim=128, num_layers=2, attention_heads=4),
        causal("lfm2", "Lfm2ForCausalLM", layer_types=["conv", "full_attention"]),
        _recipe("mamba", _IDS_ALONE, "MambaForCausalLM", _LOGITS, _CAUSAL, state_size=8),
    ]


def _encoder_decoders() -> list[Recipe]:
    bart = {
        **_TEXT,
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "use_cache": False,
    }
    t5 = {**_TEXT, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "use_cache": False}
    return [
        _recipe("bart", _PAIR, "BartForConditionalGeneration", _LOGITS, bart),
        _recipe("marian", _PAIR, "MarianMTModel", _LOGITS, bart),
        _recipe("m2m_100", _PAIR, "M2M100ForConditionalGeneration", _LOGITS, bart),
        _recipe("pegasus", _PAIR, "PegasusForConditionalGeneration", _LOGITS, bart),
        _recipe("blenderbot", _PAIR, "BlenderbotForConditionalGeneration", _LOGITS, bart),
        _recipe("t5", _PAIR, "T5ForConditionalGeneration", ("logits", "encoder_last_hidden_state"), t5),
    ]


def _vision() -> list[Recipe]:
    def vision(name: str, model: str, outputs: tuple[str, ...] = _LOGITS, **options: Any) -> Recipe:
        return _recipe(name, _PIXELS, model, outputs, _VISION, **options)

    def pyramid(name: str, model: str, outputs: tuple[str, ...] = _LOGITS, **options: Any) -> Recipe:
        return _recipe(name, _PIXELS, model, outputs, _PYRAMID, **options)

    swin = {"patch_size": 4, "embed_dim": 32, "depths": [1, 1, 2], "num_heads": [2, 4, 8], "window_size": 4}
    widths = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "embedding_size": 16}
    return [
        vision("vit", "ViTForImageClassification"),
        vision("deit", "DeiTForImageClassification"),
        vision("beit", "BeitForImageClassification", use_relative_position_bias=True),
        vision("data2vec_vision", "Data2VecVisionForImageClassification"),
        vision("dinov2", "Dinov2ForImageClassification"),
        vision("dinov3", "DINOv3ViTModel", _HIDDEN, num_register_tokens=2),
        vision("vit_msn", "ViTMSNForImageClassification"),
        pyramid("swin", "SwinForImageClassification", **swin),
        pyramid("swinv2", "Swinv2ForImageClassification", **swin),
        pyramid("convnextv2", "ConvNextV2ForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
        pyramid("resnet", "ResNetForImageClassification", **widths, layer_type="basic"),
        pyramid("regnet", "RegNetForImageClassification", **widths, groups_width=8),
        pyramid("mobilenet_v1", "MobileNetV1ForImageClassification", depth_multiplier=0.25, min_depth=8),
        pyramid("mobilenet_v2", "MobileNetV2ForImageClassification", depth_multiplier=0.35),
        pyramid("mobilevit", "MobileViTForImageClassification", **_MOBILE_VIT),
        pyramid(
            "levit",
            "LevitForImageClassification",
            hidden_sizes=[32, 48, 64],
            key_dim=[8, 8, 8],
            depths=[1, 1, 1],
            num_attention_heads=[2, 3, 4],
        ),
        pyramid(
            "pvt",
            "PvtForImageClassification",
            hidden_sizes=[16, 32, 40, 64],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 5, 8],
        ),
        pyramid(
            "cvt",
            "CvtForImageClassification",
            embed_dim=[16, 32, 48],
            num_heads=[1, 2, 3],
            depth=[1, 2, 3],
            patch_sizes=[7, 3, 3],
        ),
        pyramid("focalnet", "FocalNetForImageClassification", patch_size=4, embed_dim=32, depths=[1, 1, 1, 1]),
        pyramid("poolformer", "PoolFormerForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
        pyramid(
            "bit",
            "BitModel",
            _HIDDEN,
            hidden_sizes=[32, 64, 96, 128],
            depths=[1, 1, 1, 1],
            embedding_size=16,
            num_groups=8,
        ),
        pyramid("textnet", "TextNetForImageClassification"),
    ]


_MOBILE_VIT = {
    "patch_size": 2,
    "hidden_sizes": [32, 48, 64],
    "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96],
    "mlp_ratio": 2.0,
}


def _dense_vision() -> list[Recipe]:
    segformer = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32}
    swin2sr = {"patch_size": 1, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": 8, "upscale": 2}
    clip = _less(_VISION, "num_labels")
    yolos = {"image_size": [64, 96], "num_detection_tokens": 10}
    backbone = {"model_type": "dinov2", **clip, "out_indices": [1, 2], "reshape_hidden_states": False}
    depth = {"neck_hidden_sizes": [16, 32], "reassemble_factors": [1, 0.5], "fusion_hidden_size": 16}
    superres = {"pixel_values": image(32)}
    clips = {"pixel_values": _frames_first(video(3, 4, 32))}
    frames = {**_VISION, "image_size": 32, "num_frames": 4}
    return [
        _recipe("segformer", _PIXELS, "SegformerForSemanticSegmentation", _LOGITS, {"num_labels": 5}, **segformer),
        _recipe("glpn", _PIXELS, "GLPNForDepthEstimation", ("predicted_depth",), {}, **segformer),
        _recipe(
            "swin2sr", superres, "Swin2SRForImageSuperResolution", ("reconstruction",), {"image_size": 32}, **swin2sr
        ),
        _recipe(
            "yolos",
            {"pixel_values": image(64, 96)},
            "YolosForObjectDetection",
            ("logits", "pred_boxes"),
            _VISION,
            **yolos,
        ),
        _recipe(
            "depth_anything",
            _PIXELS,
            "DepthAnythingForDepthEstimation",
            ("predicted_depth",),
            depth,
            backbone_config=backbone,
            patch_size=16,
            reassemble_hidden_size=64,
        ),
        _recipe("videomae", clips, "VideoMAEForVideoClassification", _LOGITS, frames, tubelet_size=2),
        _recipe("timesformer", clips, "TimesformerForVideoClassification", _LOGITS, frames),
        _recipe("vivit", clips, "VivitForVideoClassification", _LOGITS, frames, tubelet_size=[2, 16, 16]),
        _recipe("detr", _PIXELS, "DetrForObjectDetection", ("logits", "pred_boxes"), _DETR),
    ]


_DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage4"],
    },
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_queries": 10,
    "num_labels": _LABELS,
}


def _frames_first(feed: Feed) -> Feed:
    """Clips (N, T, C, H, W), as transformers takes them."""
    return lambda generator, rows: feed(generator, rows).swapaxes(1, 2).copy()


def _speech() -> list[Recipe]:
    whisper = {
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "num_mel_bins": 40,
        "max_source_positions": 50,
        "max_target_positions": 32,
        "vocab_size": _VOCABULARY,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "use_cache": False,
    }
    listening = {"input_features": spectrogram(40, 100), "decoder_input_ids": tokens(8, _VOCABULARY, padded=False)}
    reading = {"input_features": spectrogram(100, 40), "decoder_input_ids": tokens(8, _VOCABULARY, padded=False)}
    to_text = {"input_feat_per_channel": 40, "conv_channels": 64, "max_source_positions": 100}
    ast = {"max_length": 64, "num_mel_bins": 32, "time_stride": 8, "frequency_stride": 8, "patch_size": 16}
    sew = {"conv_dim": (32, 32, 32), "squeeze_factor": 2}
    codec = {"num_filters": 8, "hidden_size": 16, "upsampling_ratios": [4, 4], "codebook_dim": 16, "codebook_size": 32}
    return [
        _recipe("wav2vec2", _SOUND, "Wav2Vec2ForCTC", _LOGITS, _SPEECH),
        _recipe("hubert", _SOUND, "HubertForCTC", _LOGITS, _SPEECH),
        _recipe("wavlm", _SOUND, "WavLMForCTC", _LOGITS, _SPEECH, num_buckets=32, max_bucket_distance=80),
        _recipe("unispeech", _SOUND, "UniSpeechForCTC", _LOGITS, _SPEECH),
        _recipe("sew", _SOUND, "SEWForCTC", _LOGITS, _SPEECH, **sew),
        _recipe(
            "data2vec_audio",
            _SOUND,
            "Data2VecAudioForCTC",
            _LOGITS,
            _SPEECH,
            num_conv_pos_embeddings=3,
            conv_pos_kernel_size=7,
        ),
        _recipe(
            "wav2vec2_conformer", _SOUND, "Wav2Vec2ConformerForCTC", _LOGITS, _SPEECH, conv_depthwise_kernel_size=7
        ),
        _recipe("ast", {"input_values": spectrogram(64, 32)}, "ASTForAudioClassification", _LOGITS, _VISION, **ast),
        _recipe("whisper", listening, "WhisperForConditionalGeneration", _LOGITS, whisper),
        _recipe("speech_to_text", reading, "Speech2TextForConditionalGeneration", _LOGITS, whisper, **to_text),
        _recipe(
            "moonshine",
            {"input_values": audio(4_000), "decoder_input_ids": tokens(8, _VOCABULARY, padded=False)},
            "MoonshineForConditionalGeneration",
            _LOGITS,
            whisper,
            hidden_size=64,
            intermediate_size=128,
            encoder_num_hidden_layers=2,
            decoder_num_hidden_layers=2,
            encoder_num_attention_heads=4,
            decoder_num_attention_heads=4,
        ),
        _recipe("encodec", {"input_values": _mono(audio(1_600))}, "EncodecModel", ("audio_values",), codec),
    ]


def _mono(feed: Feed) -> Feed:
    """Sound (N, 1, samples)."""
    return lambda generator, rows: feed(generator, rows)[:, None]


def _joint() -> list[Recipe]:
    pairs = ("image_embeds", "text_embeds")
    vilt = {**_TEXT, **_VISION, "modality_type_vocab_size": 2}
    boxes = {**_IDS, "bbox": _boxes}
    return [
        _recipe("clip", _JOINT, "CLIPModel", pairs, _DUAL),
        _recipe("siglip", _JOINT, "SiglipModel", pairs, _DUAL),
        _recipe("vilt", _JOINT, "ViltModel", ("pooler_output",), vilt),
        _recipe("layoutlm", boxes, "LayoutLMForSequenceClassification", _LOGITS, _TEXT, max_2d_position_embeddings=128),
    ]


def _boxes(generator: Any, rows: int) -> Any:
    """Corners (N, length, 4) int64 of the words' boxes: left, top, right, bottom."""
    first = generator.integers(0, 60, (rows, _LENGTH, 2))
    return np.concatenate([first, first + generator.integers(1, 60, first.shape)], axis=-1)
