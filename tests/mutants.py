"""Break the code on purpose: each mutant must make a test fail. `make mutants`; a name as argument runs only those.

A mutant is a file, a text that stands in it once, what takes its place, and the tests that should notice.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    file: str
    text: str
    instead: str
    tests: str


MUTANTS = [
    Mutant("certify/smoothing.py", 'stream.at("estimation")', 'stream.at("selection")', "test_smoothing.py"),
    Mutant("certify/smoothing.py", "(block == k) & going[rows]", "block == k", "test_smoothing.py"),
    Mutant("certify/confidence.py", "stats.beta.ppf(alpha,", "stats.beta.ppf(alpha / 2,", "test_smoothing.py"),
    Mutant("certify/confidence.py", "np.log(part) - math.log(width)", "np.log(part)", "test_smoothing.py"),
    Mutant("certify/sampling.py", "<= self.guide.slack)", "< 0)", "test_smoothing.py"),
    Mutant("certify/radii.py", "(1 - p)) / math.sqrt(2)", "(1 - p))", "test_smoothing.py"),
    Mutant("defend/smooth.py", "binom.isf(alpha / 2,", "binom.isf(alpha,", "test_smoothing.py"),
    Mutant("attacks/base.py", ", rejected=judge.model.rejected)", ")", "test_smoothing.py"),
    Mutant("certify/clever.py", '"l1": math.inf}', '"l1": 1.0}', "test_clever.py"),
    Mutant("certify/clever.py", "p >= LEAST_P", "p >= 0", "test_clever.py"),
    Mutant("certify/lipschitz.py", "(f(torch.ones_like(x)) - zero)", "f(torch.ones_like(x))", "test_clever.py"),
    Mutant("serve/blacklight.py", "self.matches(fingerprint) > self", "self.matches(fingerprint) >= self", "test_guard.py"),
    Mutant("serve/prada.py", "if distance > self.threshold:", "if distance >= 0:", "test_guard.py"),
    Mutant("serve/limits.py", "self.tokens = min(self.burst,", "self.tokens = max(self.burst,", "test_guard.py"),
    Mutant("serve/measure.py", ".numpy().copy())", ".numpy())", "test_guard.py"),
    Mutant("serve/server.py", "proxy_headers=False", "proxy_headers=True", "test_guard.py"),
    Mutant("serve/batching.py", "if self.waiting + rows > self.room:", "if False:", "test_serve.py"),
    Mutant("serve/batching.py", "if len(jobs) > 1:", "if False:", "test_serve.py"),
    Mutant("serve/app.py", "self._held -= held", "pass", "test_serve.py"),
    Mutant("serve/app.py", 'scheme.lower() != "bearer"', "False", "test_serve.py"),
    Mutant("serve/wire.py", 'not in "iuf"', 'not in "iufb"', "test_serve.py"),
    Mutant(
        "attacks/spatial/wasserstein.py",
        "low, high = torch.where(dear, middle, low), torch.where(dear, high, middle)",
        "low, high = torch.where(dear, low, middle), torch.where(dear, middle, high)",
        "test_wasserstein.py",
    ),
    Mutant("attacks/spatial/wasserstein.py", "plan + 2 / (t + 2) * (", "plan + 1 / (t + 2) * (", "test_wasserstein.py"),
    Mutant("attacks/spatial/sinkhorn.py", "(psi + step).clamp(min=0)", "(psi - step).clamp(min=0)", "test_wasserstein.py"),
    Mutant(
        "attacks/spatial/sinkhorn.py", "regularisation * y + arriving", "regularisation * y - arriving", "test_wasserstein.py"
    ),
    Mutant("attacks/spatial/sinkhorn.py", "per_row(mass, kernel)).to", "1.01 * per_row(mass, kernel)).to", "test_wasserstein.py"),
    Mutant("attacks/about.py", "if part.startswith(WHEN)", "if part.startswith(WHEN * 2)", "test_attack_docs.py"),
    Mutant(
        "losses.py",
        "return functional.cross_entropy(logits, aim.y",
        "return -functional.cross_entropy(logits, aim.y",
        "test_conformance.py",
    ),
    Mutant("threat/threat.py", "direction.mul_(per_row(size", "direction.mul_(-per_row(size", "test_conformance.py"),
    Mutant("oracle.py", "if len(hits.rows) and not self.roams:", "if False:", "test_conformance.py test_oracle.py"),
    Mutant("oracle.py", "near = near & inside", "near = near", "test_oracle.py test_conformance.py"),
    Mutant("oracle.py", "if level > granted and not", "if False and not", "test_oracle.py test_conformance.py"),
    Mutant("oracle.py", "near = margin > -self.guide.slack", "near = margin > self.guide.slack + 1", "test_oracle.py"),
    Mutant(
        "models/prepared.py", "reached = (margin > 0) & (goal.margin(exact, aim) > 0)", "reached = margin > 0", "test_oracle.py"
    ),
    Mutant("models/prepared.py", "2 * hits >= trials", "hits >= 0", "test_oracle.py"),
    Mutant(
        "ledger.py", "good = (verdict.reached & (distance < self.distance[ids]))", "good = (verdict.reached)", "test_oracle.py"
    ),
    Mutant("ledger.py", "if failure is not None:", "if False:", "test_audit.py test_oracle.py"),
    Mutant("models/batched.py", "missing = -len(x) % self.quantum", "missing = 0", "test_conformance.py test_oracle.py"),
    Mutant("store/faults.py", "os.replace(temporary, path)", "path.write_bytes(data[: len(data) // 2])", "test_runs.py"),
    Mutant("engine/execute.py", "rows = cases.open if stage.kind", "rows = clean[goal].open if stage.kind", "test_profiles.py"),
    Mutant(
        "engine/execute.py", 'np.isin(stored["ids"], ids)', 'np.isin(stored["ids"], ids[:1])', "test_profiles.py test_audit.py"
    ),
    Mutant("engine/executors.py", "ctypes.CDLL(None).prctl(", "print(", "test_executors.py"),
    Mutant("engine/executors.py", "process.kill()", "pass", "test_executors.py"),
    Mutant(
        "models/convolution.py",
        "torch.matmul(weight.flatten(1).t(),",
        "torch.matmul(-weight.flatten(1).t(),",
        "test_convolution.py",
    ),
    Mutant("models/convolution.py", "stride, padding, unseen)", "stride, padding)", "test_convolution.py"),
    Mutant("models/inplace.py", "part in fresh and len(part.users) == 1", "part in fresh", "test_inplace.py"),
    Mutant("threat/constraints.py", "low = torch.where(fixed, x0,", "low = torch.where(~fixed, x0,", "test_conformance.py"),
    Mutant("attacks/gradient/apgd.py", "eta[stalled] /= 2", "eta[stalled] /= 1", "test_apgd_fab.py"),
    Mutant("attacks/minimal/fab.py", "x.index_copy_(0, hit, torch.lerp(centre, found, self.beta))", "pass", "test_apgd_fab.py"),
    Mutant("attacks/blackbox/slope.py", "- value[:, 1, j]", "+ value[:, 1, j]", "test_score_based.py"),
    Mutant("attacks/blackbox/nes.py", "< levels[:, 0]", "> levels[:, 0]", "test_score_based.py"),
    Mutant("attacks/blackbox/simba.py", "done = better | (s.sign < 0)", "done = s.sign < 0", "test_score_based.py"),
    Mutant(
        "attacks/blackbox/parsimonious.py",
        "= -math.inf\n        self.fresh[sure], self.moved[sure] = False, True",
        "= -math.inf",
        "test_score_based.py",
    ),
    Mutant("attacks/blackbox/bandits.py", "rate * (up - down)", "rate * (down - up)", "test_score_based.py"),
    Mutant("attacks/blackbox/zoo.py", "self.lack1[count]", "self.lack1[count.amax()]", "test_score_based.py"),
    Mutant("attacks/blackbox/square.py", "better = (value > s.value)", "better = (value >= -1e9)", "test_square_deepfool.py"),
    Mutant("rng.py", "keys = _mix(keys * _MIX2 +", "keys = _mix(keys * 0 +", "test_rng.py"),
    Mutant("networks/parts.py", "a, x = self.root.square(), x.relu()", "a = self.root.square()", "test_networks.py"),
    Mutant("networks/parts.py", "math.sqrt(gain / part", "math.sqrt(1 / part", "test_networks.py"),
    Mutant("networks/parts.py", "stream.at(name).normal", "stream.normal", "test_networks.py"),
    Mutant(
        "networks/parts.py",
        "isinstance(part, Block) and part.starts",
        "isinstance(part, Block) and not part.starts",
        "test_networks.py",
    ),
    Mutant("models/sustainability.py", "out.clone()", "out", "test_layers.py"),
    Mutant("models/sustainability.py", "handle.remove()", "pass", "test_layers.py"),
    Mutant("models/sustainability.py", "values.mean() + dev", "values.mean() - dev", "test_layers.py"),
    Mutant("diagnose/layers.py", "error[:n].double()", "error.double()", "test_layers.py"),
    Mutant("models/saliency.py", "with seeded(number):", "if True:", "test_saliency.py"),
    Mutant("auditing.py", "run.complete and (asked.saliency is None or run.saliency())", "run.complete", "test_saliency.py"),
    Mutant("auditing.py", '((shown["x"][rows], shown["label"][rows])', '((shown["x"][rows], reached)', "test_saliency.py"),
    Mutant("networks/vision.py", "* self.each**-0.5", "", "test_networks.py"),
    Mutant("geometry/linf.py", "torch.clamp(x, *_interval(x0, epsilon, low, high), out=x)", "x", "test_geometry.py"),
]


def survives(mutant: Mutant) -> str | None:
    """None where a test failed, else what went wrong."""
    path = ROOT / "src/mohs" / mutant.file
    code = path.read_text()
    if code.count(mutant.text) != 1:
        return f"the text stands {code.count(mutant.text)} times in {mutant.file}"
    tests = [str(ROOT / "tests" / name) for name in mutant.tests.split() if (ROOT / "tests" / name).exists()]
    path.write_text(code.replace(mutant.text, mutant.instead))
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "--timeout", "300", *tests],
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
        )
    finally:
        path.write_text(code)
    return None if run.returncode == 1 else f"no test failed (exit code {run.returncode})"


def main(words: list[str]) -> int:
    chosen = [m for m in MUTANTS if not words or any(word in m.file for word in words)]
    left = 0
    for mutant in chosen:
        trouble = survives(mutant)
        left += trouble is not None
        print(f"{'survived' if trouble else 'killed  '} {mutant.file}: {mutant.text[:60]!r} {trouble or ''}", flush=True)
    print(f"{len(chosen) - left} killed, {left} survived")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
