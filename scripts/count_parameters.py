"""Parameters of MultiImageObsEncoder, counted, as a Markdown table: python scripts/count_parameters.py"""

from robomimic_frozen import MultiImageObsEncoder

LOW_DIM = {"pos": {"shape": [3], "type": "low_dim"}}


def main() -> None:
    print("| backbone | cameras | parameters | trainable | frozen |\n|---|---|---|---|---|")
    for name in ("resnet18", "resnet34", "resnet50", "efficientnet_lite0"):
        for cameras in (1, 2):
            images = {f"camera{number}": {"shape": [3, 84, 84], "type": "rgb"} for number in range(cameras)}
            encoder = MultiImageObsEncoder({"obs": {**images, **LOW_DIM}}, rgb_model_name=name, pretrained=False)
            total = sum(parameter.numel() for parameter in encoder.parameters())
            trainable = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
            print(f"| {name} | {cameras} | {total:,} | {trainable:,} | {1 - trainable / total:.2%} |")


if __name__ == "__main__":
    main()
