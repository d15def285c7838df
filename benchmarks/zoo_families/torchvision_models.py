"""Torchvision: every family of its classifiers, and the networks of its other tasks that `torch.export` takes.

Full size where that is below some 10 million parameters; larger ones have fewer or narrower layers of the same kind.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.zoo_recipes import Recipe, features, image, video

__all__ = ["recipes"]

_CLASSES = 10


def recipes() -> list[Recipe]:
    """All of them."""
    return [*_whole(), *_reduced(), *_other_tasks()]


def _recipe(name: str, make: Callable[[], Any], **feeds: Any) -> Recipe:
    return Recipe(f"torchvision-{name}", "torchvision", "torch", make, feeds)


def _whole() -> list[Recipe]:
    sizes = {
        "densenet121": 64,
        "efficientnet_b0": 64,
        "googlenet": 64,
        "mnasnet0_5": 65,
        "mobilenet_v2": 64,
        "mobilenet_v3_small": 64,
        "regnet_x_400mf": 64,
        "regnet_y_400mf": 95,
        "resnet18": 64,
        "shufflenet_v2_x0_5": 64,
        "squeezenet1_1": 64,
    }
    return [_recipe(name, _named(name), x=image(size)) for name, size in sizes.items()]


def _named(name: str) -> Callable[[], Any]:
    def make() -> Any:
        from torchvision import models

        options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        return models.get_model(name, weights=None, num_classes=_CLASSES, **options)

    return make


def _reduced() -> list[Recipe]:
    return [
        _recipe("alexnet", _alexnet, x=image(64)),
        _recipe("vgg11_bn", _vgg, x=image(64)),
        _recipe("inception_v3", _inception, x=image(95)),
        _recipe("resnext", _resnext, x=image(65)),
        _recipe("efficientnet_v2", _efficientnet_v2, x=image(64)),
        _recipe("convnext", _convnext, x=image(64)),
        _recipe("swin", _swin, x=image(64)),
        _recipe("swin_v2", _swin_v2, x=image(64)),
        _recipe("vit", _vit, x=image(64)),
        _recipe("maxvit", _maxvit, x=image(64)),
    ]


def _alexnet() -> Any:
    from torch import nn
    from torchvision import models

    model = models.alexnet(weights=None)
    # The hidden layers of 4,096 hold 58 of its 61 million parameters.
    model.classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(256 * 36, 256), nn.ReLU(True), nn.Dropout(), nn.Linear(256, _CLASSES)
    )
    return model


def _vgg() -> Any:
    from torch import nn
    from torchvision import models

    model = models.vgg11_bn(weights=None)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(nn.Linear(512 * 4, 256), nn.ReLU(True), nn.Dropout(), nn.Linear(256, _CLASSES))
    return model


def _inception() -> Any:
    from torchvision import models

    return models.inception_v3(weights=None, num_classes=_CLASSES, aux_logits=False, init_weights=False)


def _resnext() -> Any:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=_CLASSES, groups=8, width_per_group=4)


def _efficientnet_v2() -> Any:
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    settings = [
        FusedMBConvConfig(1, 3, 1, 24, 24, 1),
        FusedMBConvConfig(4, 3, 2, 24, 48, 2),
        MBConvConfig(4, 3, 2, 48, 64, 2),
        MBConvConfig(6, 3, 2, 64, 96, 2),
    ]
    return EfficientNet(settings, dropout=0.2, num_classes=_CLASSES, last_channel=256)


def _convnext() -> Any:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [(32, 64, 2), (64, 96, 2), (96, 128, 2), (128, None, 1)]
    return ConvNeXt([CNBlockConfig(*width) for width in widths], num_classes=_CLASSES)


def _swin() -> Any:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([4, 4], 32, [2, 2, 2], [2, 4, 8], window_size=[7, 7], num_classes=_CLASSES)


def _swin_v2() -> Any:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    blocks = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    return SwinTransformer([4, 4], 32, [2, 2, 2], [2, 4, 8], window_size=[8, 8], num_classes=_CLASSES, **blocks)


def _vit() -> Any:
    from torchvision.models import VisionTransformer

    return VisionTransformer(64, 16, 3, 4, 128, 256, num_classes=_CLASSES)


def _maxvit() -> Any:
    from torchvision.models import MaxVit

    return MaxVit((64, 64), 16, 4, [16, 32], [1, 1], 8, 0.1, num_classes=_CLASSES)


def _other_tasks() -> list[Recipe]:
    return [
        _recipe("lraspp_mobilenet_v3", _segmenter("lraspp_mobilenet_v3_large"), x=image(64)),
        _recipe("deeplabv3_mobilenet_v3", _segmenter("deeplabv3_mobilenet_v3_large"), x=image(64)),
        _recipe("fcn_resnet18", _fcn, x=image(65)),
        _recipe("ssdlite_backbone", _ssdlite, x=image(96)),
        _recipe("fasterrcnn_fpn_backbone", _fpn, x=image(64)),
        _recipe("retinanet_head", _retinanet, x=image(64)),
        _recipe("raft_small", _raft, image1=image(128), image2=image(128)),
        _recipe("r3d", _video_resnet("Conv3DSimple"), x=video(3, 8, 56)),
        _recipe("r2plus1d", _video_resnet("Conv2Plus1D"), x=video(3, 8, 56)),
        _recipe("swin3d", _swin3d, x=video(3, 4, 64)),
        _recipe("mvit", _mvit, x=video(3, 4, 64)),
        _recipe("mlp", _mlp, x=features(12)),
    ]


def _segmenter(name: str) -> Callable[[], Any]:
    def make() -> Any:
        from torchvision import models

        return _only("out", models.get_model(name, weights=None, weights_backbone=None, num_classes=5))

    return make


def _only(key: str, model: Any) -> Any:
    """A network whose dictionary of outputs is reduced to one."""
    from torch import nn

    class Only(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return self.model(x)[key]

    return Only()


def _all_of(model: Any) -> Any:
    """A network whose dictionary of outputs becomes a tuple."""
    from torch import nn

    class AllOf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return tuple(self.model(x).values())

    return AllOf()


def _fcn() -> Any:
    from torchvision.models import resnet18
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    backbone = IntermediateLayerGetter(resnet18(weights=None), {"layer3": "out"})
    return _only("out", FCN(backbone, FCNHead(256, 5)))


def _ssdlite() -> Any:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    return _all_of(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).backbone)


def _fpn() -> Any:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

    return _all_of(fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None).backbone)


def _retinanet() -> Any:
    from torch import nn
    from torchvision.models import resnet18
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.detection.retinanet import RetinaNetHead

    class Detector(nn.Module):
        """What precedes the boxes' decoding: class scores and offsets of every anchor."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = _resnet_fpn_extractor(resnet18(weights=None), 5, returned_layers=[2, 3, 4])
            self.head = RetinaNetHead(256, 3, 4)

        def forward(self, x: Any) -> Any:
            found = self.head(list(self.backbone(x).values()))
            return found["cls_logits"], found["bbox_regression"]

    return Detector()


def _raft() -> Any:
    from torch import nn
    from torchvision.models.optical_flow import raft_small

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = raft_small(weights=None)

        def forward(self, image1: Any, image2: Any) -> Any:
            return self.model(image1, image2, num_flow_updates=2)[-1]

    return Flow()


def _video_resnet(convolution: str) -> Callable[[], Any]:
    def make() -> Any:
        from torchvision.models.video import resnet

        blocks = [getattr(resnet, convolution)] * 4
        stem = resnet.BasicStem if convolution == "Conv3DSimple" else resnet.R2Plus1dStem
        return resnet.VideoResNet(resnet.BasicBlock, blocks, [1, 1, 1, 1], stem, num_classes=_CLASSES)

    return make


def _swin3d() -> Any:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    return SwinTransformer3d([2, 4, 4], 24, [2, 2], [2, 4], window_size=[2, 7, 7], num_classes=_CLASSES)


def _mvit() -> Any:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(1, 32, 64, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 4, 4]),
        MSBlockConfig(2, 64, 64, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]),
    ]
    return MViT((64, 64), 4, blocks, True, True, True, True, num_classes=_CLASSES)


def _mlp() -> Any:
    from torch import nn
    from torchvision.ops import MLP

    return MLP(12, [32, 16, 3], norm_layer=nn.LayerNorm)
