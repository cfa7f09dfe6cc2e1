"""Where every attack, defence and finding stands in the public taxonomies, as plain data.

NIST AI 100-2 E2025 (Adversarial Machine Learning, March 2025), by its identifiers; what has none is named by its section.
NISTIR 8269 (draft, October 2019), by its words, for it has no identifiers. MITRE ATLAS 5, by its techniques and mitigations.

A new attack, craft or defence is one name in the tables below.
"""

from __future__ import annotations

from dataclasses import dataclass

NIST = {
    "NISTAML.01": "Availability",
    "NISTAML.011": "Model poisoning (availability)",
    "NISTAML.012": "Clean-label poisoning",
    "NISTAML.013": "Data poisoning",
    "NISTAML.014": "Energy-latency",
    "NISTAML.02": "Integrity",
    "NISTAML.021": "Clean-label backdoor",
    "NISTAML.022": "Evasion",
    "NISTAML.023": "Backdoor poisoning",
    "NISTAML.024": "Targeted poisoning",
    "NISTAML.025": "Black-box evasion",
    "NISTAML.026": "Model poisoning (integrity)",
    "NISTAML.03": "Privacy",
    "NISTAML.031": "Model extraction",
    "NISTAML.032": "Reconstruction",
    "NISTAML.033": "Membership inference",
    "NISTAML.034": "Property inference",
    "NISTAML.05": "Supply chain",
    "NISTAML.051": "Model poisoning (supply chain)",
    "2.2.5": "Mitigations of evasion",
    "2.2.5 adversarial training": "Adversarial training",
    "2.2.5 randomized smoothing": "Randomised smoothing",
    "2.2.5 formal verification": "Formal verification",
}
PARENTS = ("NISTAML.01", "NISTAML.02", "NISTAML.03", "NISTAML.05", "2.2.5")

ATLAS = {
    "AML.T0005": "Create Proxy AI Model",
    "AML.T0010": "AI Supply Chain Compromise",
    "AML.T0015": "Evade AI Model",
    "AML.T0018": "Manipulate AI Model",
    "AML.T0020": "Poison Training Data",
    "AML.T0024.000": "Infer Training Data Membership",
    "AML.T0024.001": "Invert AI Model",
    "AML.T0024.002": "Extract AI Model",
    "AML.T0029": "Denial of AI Service",
    "AML.T0031": "Erode AI Model Integrity",
    "AML.T0041": "Physical Environment Access",
    "AML.T0042": "Verify Attack",
    "AML.T0043.000": "Craft Adversarial Data: White-Box Optimization",
    "AML.T0043.001": "Craft Adversarial Data: Black-Box Optimization",
    "AML.T0043.002": "Craft Adversarial Data: Black-Box Transfer",
    "AML.T0043.003": "Craft Adversarial Data: Manual Modification",
    "AML.T0043.004": "Craft Adversarial Data: Insert Backdoor Trigger",
    "AML.M0003": "Model Hardening",
    "AML.M0004": "Restrict Number of AI Model Queries",
    "AML.M0006": "Use Ensemble Methods",
    "AML.M0007": "Sanitize Training Data",
    "AML.M0008": "Validate AI Model",
    "AML.M0010": "Input Restoration",
    "AML.M0015": "Adversarial Input Detection",
}


@dataclass(frozen=True)
class Place:
    """nist, atlas: keys of the tables above, the narrowest first; ir8269: a path in that report's words."""

    nist: tuple[str, ...]
    ir8269: str
    atlas: tuple[str, ...]

    def facts(self) -> dict[str, object]:
        """As JSON knows it."""
        return {
            "nist_ai_100_2": [{"id": code, "name": NIST[code]} for code in self.nist],
            "nist_ir_8269": self.ir8269,
            "mitre_atlas": [{"id": code, "name": ATLAS[code]} for code in self.atlas],
        }

    def __str__(self) -> str:
        return "; ".join([*(f"{code} {NIST[code]}" for code in self.nist), *(f"{code} {ATLAS[code]}" for code in self.atlas)])


_GRADIENT, _FREE = "testing: evasion, gradient-based", "testing: evasion, gradient-free"
_WHITE = Place(("NISTAML.022",), _GRADIENT, ("AML.T0043.000", "AML.T0015"))
_BLACK = Place(("NISTAML.025",), _FREE, ("AML.T0043.001", "AML.T0015"))
_TRANSFER = Place(("NISTAML.025",), _GRADIENT, ("AML.T0043.002", "AML.T0005", "AML.T0015"))
_HYBRID = Place(("NISTAML.025",), _FREE, ("AML.T0043.002", "AML.T0043.001", "AML.T0005", "AML.T0015"))
_PHYSICAL = Place(("NISTAML.022",), _GRADIENT, ("AML.T0043.000", "AML.T0041", "AML.T0015"))
_REPLAYED = Place(("NISTAML.025",), _FREE, ("AML.T0042", "AML.T0015"))
_MASKING = "defences, testing: robustness improvements, gradient masking"
_RESTORING = Place(("2.2.5",), "defences, testing: robustness improvements, feature squeezing", ("AML.M0010",))
_SMOOTHING = Place(("2.2.5 randomized smoothing",), "defences, testing: robustness improvements", ("AML.M0010",))
_TRAINING = Place(
    ("2.2.5 adversarial training",), "defences, testing: robustness improvements, adversarial training", ("AML.M0003",)
)
_WATCHING = Place(("2.2.5",), "defences, testing: robustness improvements", ("AML.M0015", "AML.M0004"))

_BY_GRADIENTS = """fgsm bim pgd apgd apgd-t fab fab-t deepfool mi-fgsm ni-fgsm acg pgd-optimizer jitter gama anneal-flip slide
    pgd-l0 cw cw-linf cw-l0 ead lbfgs jsma superdeepfool ddn fmn alma sigma-zero pdpgd brendel-bethge squeeze stadv
    wasserstein-sinkhorn wasserstein-dual wasserstein-frank-wolfe recoloradv ppgd lpa fast-lpa on-manifold noisy-copies
    from-bound"""
_BY_QUERIES = """square sparse-rs bisection spatial-grid worst-of-k one-pixel nes spsa simba simba-dct parsimonious bandits zoo
    gen-attack hop-skip-jump qeba geoda surfree boundary opt sign-opt rays pointwise"""
_BY_SURROGATES = "di-fgsm ti-fgsm si-fgsm vmi-fgsm vni-fgsm"

ATTACKS = {
    **dict.fromkeys(_BY_GRADIENTS.split(), _WHITE),
    **dict.fromkeys(_BY_QUERIES.split(), _BLACK),
    **dict.fromkeys(_BY_SURROGATES.split(), _TRANSFER),
    "adversarial-patch": _PHYSICAL,
    "hybrid": _HYBRID,
    "hybrid-label": _HYBRID,
    "replay": _REPLAYED,
}

CRAFTS = {**dict.fromkeys(("uap", "gradient", "singular"), _WHITE), "patch": _PHYSICAL}

# by their names in `mohs defend`, `mohs detect`, `mohs recipes` and `mohs certify`
DEFENCES = {
    **dict.fromkeys(["jpeg", "bits", "median", "squeeze", "tv", "resize", "thermometer", "defense-gan"], _RESTORING),
    "noise": _SMOOTHING,
    "smooth": _SMOOTHING,
    "kwta": Place(("2.2.5",), _MASKING, ("AML.M0003",)),
    "ensemble": Place(("2.2.5",), "defences, testing: robustness improvements", ("AML.M0006",)),
    "guard": _WATCHING,  # of mohs serve
}
DETECTORS = dict.fromkeys(["mahalanobis", "lid", "squeezing", "nre", "magnet"], _WATCHING)
RECIPES = {
    **dict.fromkeys(["pgd", "fast", "n-fgsm", "free", "trades", "mart", "hat", "max", "avg", "msd", "rslad", "alp"], _TRAINING),
    **dict.fromkeys(["attack", "perceptual", "universal", "ensemble", "on-manifold", "layers", "+awp", "+smooth"], _TRAINING),
    "gradient": Place(("2.2.5",), _MASKING, ("AML.M0003",)),
    "distillation": Place(("2.2.5",), "defences, testing: robustness improvements, defensive distillation", ("AML.M0003",)),
    **dict.fromkeys(
        ["gaussian", "smooth-adv", "macer"],
        Place(("2.2.5 randomized smoothing",), "defences, testing: robustness improvements", ("AML.M0003",)),
    ),
    **dict.fromkeys(
        ["ibp", "crown-ibp"],
        Place(("2.2.5 formal verification",), "defences, testing: robustness improvements", ("AML.M0003",)),
    ),
}
CERTIFICATES = {
    "smoothing": Place(("2.2.5 randomized smoothing",), "defences, testing: robustness metrics", ("AML.M0008",)),
    **dict.fromkeys(
        ["interval", "crown", "alpha-crown", "branch-and-bound"],
        Place(("2.2.5 formal verification",), "defences, testing: robustness metrics", ("AML.M0008",)),
    ),
}

DIAGNOSIS = Place(("2.2.5",), _MASKING, ("AML.M0008",))
EXTRACTION = Place(("NISTAML.031",), "testing: oracle, extraction", ("AML.T0024.002", "AML.T0005"))  # mohs substitute
_VALIDATION = Place(("2.2.5",), "defences, testing: robustness improvements", ("AML.M0008",))


# The parts of a machine learning system in their order, each with the attacks on it, by the identifiers above.
PIPELINE = {
    "training data": ("NISTAML.012", "NISTAML.013", "NISTAML.021", "NISTAML.023", "NISTAML.024"),
    "training": ("NISTAML.011", "NISTAML.026"),
    "the model's file": ("NISTAML.051",),
    "inputs": ("NISTAML.022", "NISTAML.025", "NISTAML.014"),
    "answers": ("NISTAML.031", "NISTAML.032", "NISTAML.033", "NISTAML.034"),
}


def of_attack(name: str) -> Place | None:
    """The place of an attack; None of one that another package brought."""
    return ATTACKS.get(name)


def of_finding(code: str) -> Place:
    """The place of what the contract check found: validation of the model, and of a mask where gradients are none."""
    return DIAGNOSIS if code in ("gradient", "random") else _VALIDATION


def covering() -> dict[str, list[str]]:
    """Every identifier of both taxonomies -> what mohs has of it, empty where it has nothing."""
    found: dict[str, list[str]] = {code: [] for code in (*NIST, *ATLAS)}
    tables = (DEFENCES, DETECTORS, RECIPES, CERTIFICATES, {"diagnose": DIAGNOSIS, "substitute": EXTRACTION})
    for kind, table in (("", ATTACKS), ("universal ", CRAFTS), *(("", table) for table in tables)):
        for name, place in table.items():
            for code in (*place.nist, *place.atlas):
                found[code].append(f"{kind}{name}")
    return found
