"""What each detector is worth on the embedded digits: python -m benchmarks.detectors NAME PROFILE IMAGES THREAT ..."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

import mohs

MODEL = "demo:standard"


def main(name: str, profile: str, images: int, threats: list[str]) -> dict[str, Any]:
    torch.set_num_threads(1)
    settings: dict[str, object] = {"bits": 3} if name == "squeezing" else {}  # digits have 17 levels: one bit leaves little
    options: dict[str, Any] = {"method": name, "fit": "digits:train", "profile": profile, "limit": images, "settings": settings}
    found = mohs.detect(MODEL, "digits", threats=threats, **options)
    threat: dict[str, Any]
    for threat in found.facts["threats"]:
        threat.pop("roc")
    return found.facts


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])))
