"""What the paper reports: every number in its text and tables, and no other.

Per-model accuracies of its Fig. 2 and the curves of Fig. 3 are pictures; only
the averages and minima of the prose are known. Columns are the data sets
Messidor, ISIC2019 and BTMRI, with the removers SplitNet (S) and WDNet (W).
"""

from __future__ import annotations

from typing import Final

AVERAGE_ACCURACY: Final = {"random": 0.8430, "he": 0.3862, "he-sit": 0.3182}
"""AA over seen models and data sets (section on seen models)."""

MINIMUM: Final = {"Messidor": 0.0857, "ISIC2019": 0.1506}
"""Lowest accuracy of a seen model with HE-SIT."""

LEFT_OUT: Final = {"Messidor": 0.5673, "ISIC2019": 0.5890}
"""Mean leave-one-out accuracy; BTMRI's is not in the text."""

LEFT_OUT_MINIMUM: Final = 0.4583
"""Lowest leave-one-out accuracy (abstract)."""

AUC: Final = {"BTMRI": 0.6198, "Messidor": 0.6388, "ISIC2019": 0.8641}
"""Mean over models of the micro-average AUC with HE-SIT (Fig. 3)."""

QUERIES: Final = {"Messidor": 34, "ISIC2019": 44, "BTMRI": 128}
"""Mean model calls over seven logos (Fig. 7)."""

LOGO_ACCURACY: Final = {"Messidor": 0.1349, "ISIC2019": 0.2095, "BTMRI": 0.4544}
"""Mean accuracy over seven logos (Fig. 7a)."""

AFTER_REMOVAL: Final = 0.3859
"""Mean accuracy on the outputs of removers with δ (abstract)."""

COLUMNS: Final = ("M-S", "M-W", "I-S", "I-W", "B-S", "B-W")
"""Data set and remover of the six columns of the tables that follow."""

Row = tuple[float, float, float, float, float, float]

REMOVED_QUALITY: Final[dict[str, dict[str, Row]]] = {
    "SSIM": {
        "without δ": (0.9706, 0.9698, 0.9698, 0.9766, 0.9842, 0.9839),
        "with δ": (0.7110, 0.3579, 0.7666, 0.7732, 0.7732, 0.4705),
    },
    "PSNR": {
        "without δ": (44.6426, 43.8920, 45.9274, 45.7423, 47.9332, 47.8375),
        "with δ": (33.4627, 29.6201, 33.4859, 29.1537, 32.9987, 29.5853),
    },
    "RMSE": {
        "without δ": (1.6108, 1.6954, 1.3066, 1.3632, 1.0275, 1.0378),
        "with δ": (5.4253, 8.5274, 5.4092, 8.9949, 5.7385, 8.5061),
    },
}
"""Outputs of removers against the original (Fig. 5b)."""

REMOVED_ACCURACY: Final[dict[str, tuple[Row, Row]]] = {
    "ResNet50": (
        (0.3029, 0.3143, 0.7896, 0.6759, 0.8460, 0.8553),
        (0.2875, 0.2944, 0.2352, 0.2609, 0.7770, 0.3846),
    ),
    "VGG16": (
        (0.4011, 0.3531, 0.6375, 0.4286, 0.7873, 0.8120),
        (0.2710, 0.2290, 0.3212, 0.2585, 0.3864, 0.6595),
    ),
    "DenseNet121": (
        (0.4800, 0.6320, 0.6851, 0.5776, 0.8140, 0.8813),
        (0.3741, 0.5327, 0.2275, 0.1908, 0.1966, 0.6595),
    ),
    "Inceptionv3": (
        (0.4903, 0.5440, 0.7496, 0.6467, 0.7080, 0.7440),
        (0.3755, 0.3333, 0.3059, 0.2319, 0.4800, 0.2963),
    ),
    "MobileNetv3": (
        (0.4320, 0.5097, 0.6037, 0.5284, 0.6513, 0.7846),
        (0.2999, 0.3832, 0.2868, 0.2367, 0.6034, 0.6510),
    ),
    "ViT": (
        (0.5040, 0.5691, 0.5806, 0.5238, 0.7620, 0.7420),
        (0.4594, 0.4829, 0.4015, 0.2609, 0.6391, 0.5912),
    ),
}
"""Accuracy on outputs of removers: without δ, with δ (Fig. 5c)."""

INJECTED_AFTER: Final[dict[str, tuple[Row, Row]]] = {
    "none": (
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (0.7665, 0.7116, 0.7938, 0.8321, 0.8281, 1.0),
    ),
    "noise": (
        (0.2821, 0.2797, 0.3405, 0.3429, 0.0156, 0.0156),
        (0.4107, 0.5356, 0.6067, 0.6498, 0.0156, 0.0260),
    ),
    "delta_d": (
        (0.2934, 0.2747, 0.3381, 0.3429, 0.0156, 0.0052),
        (0.4531, 0.4095, 0.2494, 0.1511, 0.0052, 0.0417),
    ),
    "delta_i": (
        (0.2734, 0.2647, 0.3453, 0.3165, 0.0260, 0.0313),
        (0.2772, 0.3283, 0.3429, 0.3957, 0.0260, 0.0417),
    ),
}
"""δ added after the mark: accuracy on the input and on the output (Fig. 8b)."""

PERTURBED_QUALITY: Final[dict[str, dict[str, Row]]] = {
    "PSNR": {
        "none": (40.2835, 40.6051, 41.1074, 42.0666, 43.779, 45.0266),
        "noise": (40.8846, 40.5668, 41.0293, 43.5864, 43.8055, 32.0738),
        "delta_d": (38.7061, 32.0738, 36.9566, 34.0239, 37.4647, 30.6235),
        "delta_i": (45.1667, 43.5864, 43.7348, 45.3694, 44.3292, 46.3083),
    },
    "SSIM": {
        "none": (0.9334, 0.9421, 0.9508, 0.9537, 0.9625, 0.9689),
        "noise": (0.9466, 0.9432, 0.9550, 0.9627, 0.9645, 0.6809),
        "delta_d": (0.9011, 0.6809, 0.8834, 0.8013, 0.8638, 0.5763),
        "delta_i": (0.9813, 0.9627, 0.9825, 0.9732, 0.9738, 0.9740),
    },
    "RMSE": {
        "none": (2.4863, 2.4086, 2.2607, 2.0540, 1.6528, 1.4443),
        "noise": (2.3362, 2.4184, 2.282, 1.8741, 1.6527, 6.6703),
        "delta_d": (3.2013, 6.6703, 3.8327, 5.4753, 3.6003, 7.5914),
        "delta_i": (1.5433, 1.8741, 1.7668, 1.6020, 1.5715, 1.2880),
    },
}
"""Quality by perturbation (Table 1), most likely against the remover's input."""

COPY_ERRORS: Final = (3, 5)
"""Columns whose noise cells repeat other cells of Table 1: I-W and B-W."""

AUTHORISATION: Final[dict[str, dict[str, tuple[float, float, float]]]] = {
    "accuracy": {
        "Ori": (1.0, 1.0, 1.0),
        "AW": (0.0435, 0.2040, 0.3607),
        "IAB": (1.0, 1.0, 1.0),
        "RI": (1.0, 1.0, 1.0),
    },
    "SSIM": {
        "Ori": (1.0, 1.0, 1.0),
        "AW": (0.8682, 0.8883, 0.8792),
        "IAB": (0.9260, 0.9382, 0.9683),
        "RI": (1.0, 1.0, 1.0),
    },
}
"""Authorised recovery (Fig. 4b): Messidor, ISIC2019, BTMRI."""
