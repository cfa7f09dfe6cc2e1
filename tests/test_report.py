"""The report and its siblings: what they say is what the verdict says, to anyone, anywhere."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from mohs.errors import RequestError
from mohs.report import Requirement, as_json, figures, pictures, summary, table, words, write_report
from mohs.store import SCHEMA, Run
from mohs.store.verdict import Verdict, verdict_of
from tests.hand_made import EVIL, commit, digits_run, make_run, row, screenshot, show, spec, stage, threat

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    request = {"given": {"model": "demo", "require": ["linf:8/255 >= 0.45"]}, "defaulted": {"confident": ["l2:0.5 >= 60%"]}}
    finding = {"severity": "warning", "code": "saturated", "message": "31% of probabilities are above 0.999"}
    folder = tmp_path_factory.mktemp("report") / "run"
    return digits_run(folder, request={**request, "command": "mohs audit demo --data 'a b'"}, findings=[finding])


@pytest.fixture(scope="module")
def verdict(run: Run) -> Verdict:
    return verdict_of(run)


@pytest.fixture(scope="module")
def page(run: Run) -> Path:
    return write_report(run.folder, run.folder.parent / "out" / "report.html")


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return visible(page)


class Reader(HTMLParser):
    """The words of a page, its tags with their attributes, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.words.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def visible(page: Path) -> str:
    return re.sub(r"\s+", " ", " ".join(read(page).words))


# what it says


def test_the_verdict_comes_first_in_one_sentence(run: Run, verdict: Verdict, text: str) -> None:
    first = verdict.threats[0]
    share = first.boundary / (first.score.n - first.natural)
    low, high = first.score.interval
    sentence = (
        f"At linf:8/255 an adversary who knows the model and its gradients breaks {share:.1%} of the examples this model gets "
        f"right: robust accuracy {first.score.low:.1%} [{100 * low:.1f}, {100 * high:.1f}] under standard 1.0."
    )
    assert sentence in text
    assert text.index(sentence) < text.index("Robustness curve") < text.index("Who broke what") < text.index("How to repro")


def test_every_number_is_the_verdicts(verdict: Verdict, text: str) -> None:
    clean = verdict.clean
    assert f"{clean.low:.1%} 95% interval {words.interval(clean, ' to ')}%; {clean.robust} of 128 examples right" in text
    for found in verdict.threats:
        score = found.score
        assert f"95% interval {words.interval(score, ' to ')}%; {score.robust} of 128 examples withstood" in text
        errors = f"{found.natural} {found.natural_error:.1%} {found.boundary} {found.boundary_error:.1%} "
        errors += (
            f"{found.natural + found.boundary} {found.robust_error:.1%} {score.undecided} {score.robust} {score.low:.1%} 128"
        )
        assert f"{found.text} {errors}" in text
        for s in found.stages:
            if s.inapplicable is None:
                row = f" {s.tried} {s.broken} {s.only} {s.forwards} {s.backwards} {s.queries} {words.cost(s.seconds)} "
                assert row in text[text.index("Who broke what") :]
    assert f"{words.score(verdict.threats[1].score)} 95%" in text
    assert "47.7% to 50.0%" in text
    assert "3 undecided : counted as broken in the low number" in text


def test_stages_that_do_not_apply_and_what_replaced_what_are_told(text: str) -> None:
    assert "Inapplicable , which is no evidence: square asks for scores, which the model does not give" in text
    assert "Note : the targeted DLR loss needs 4 classes: replaced by the logit difference" in text
    assert "curve measures" in text
    assert "apgd-ce: steps 100, loss cross_entropy" in text


def test_the_policy_findings_reasons_and_reproduction_are_told(run: Run, verdict: Verdict, text: str) -> None:
    assert "✓ met linf:8/255 >= 0.45 : it is 0.4766" in text
    low = verdict.threats[1].score.interval[0]
    assert f"✗ not met l2:0.5 >= 60% (95% confidence) : it is {low:.4f}" in text
    assert "Warning : 31% of probabilities are above 0.999" in text
    assert "l2:0.5 undecided: rounding 3" in text
    for told in ("mohs audit demo --data 'a b'", "seed 0", run.spec["data"]["sha256"], "numpy 2.0.0", "batch norm folded"):
        assert told in text
    assert "abcdef0123456789, with uncommitted changes" in text
    assert "t00-g000-s00-c00000.parquet" in text
    for name in SCHEMA.names:
        assert f"{name} {words.COLUMNS[name]}" in text
    assert list(words.COLUMNS) == SCHEMA.names


def test_a_policy_that_the_run_recorded_is_shown_as_it_is(tmp_path: Path) -> None:
    policy = [{"requirement": "clean >= 0.9", "met": False, "value": 0.25}, {"requirement": "x", "met": True, "value": None}]
    run = make_run(tmp_path / "run", spec(1, policy=policy), [row(0, -1, "survived")])
    text = visible(write_report(run, tmp_path / "r.html"))
    assert "✗ not met clean >= 0.9 : it is 0.2500" in text
    assert "✓ met x " in text


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec(8), [row(0, -1, "survived")], complete=False)
    text = visible(write_report(run, tmp_path / "r.html"))
    assert "This run is not finished." in text
    assert "mohs resume run" in text
    assert "the run has not reached them 7" in text


@pytest.mark.parametrize(
    ("what", "rows", "said"),
    [
        (spec(1), [row(0, -1, "inapplicable")], "The goal applies to none of these examples"),
        (spec(1), [row(0, -1, "broken")], "gets none of these examples right"),
        (spec(2), [row(i, -1, "survived") for i in range(2)], "breaks at least 0.0% of the examples"),
        (
            spec(2, goals=["targeted:1"]),
            [row(i, -1, "survived") for i in range(2)] + [row(0, 0, "broken")],
            "reaches the goal in at least 50.0% of the cases where it is not reached already",
        ),
        (
            spec(2, [threat("l2:inf", np.inf, [stage("curve", kind="measure")])]),
            [row(i, -1, "survived") for i in range(2)] + [row(i, 0, "broken", distance=2.5 - i) for i in range(2)],
            "With no limit on the change (l2:inf), an adversary who knows the model and its gradients breaks 100.0% of the "
            "examples this model gets right under standard 1.0; half of all cases break within 1.5.",
        ),
    ],
)
def test_edge_cases_have_their_sentence(tmp_path: Path, what: dict[str, Any], rows: list[dict[str, Any]], said: str) -> None:
    run = make_run(tmp_path / "run", what, rows)
    assert said in words.headline(verdict_of(run))
    assert said in visible(write_report(run, tmp_path / "r.html"))


def test_the_headline_is_about_the_weakest_threat(tmp_path: Path) -> None:
    rows = [row(0, -1, "survived"), row(0, 0, "survived"), row(0, 1, "survived"), row(0, 0, "broken", threat=1)]
    run = make_run(tmp_path / "run", spec(1, [threat(), threat("linf:0.2", 0.2)]), rows)
    assert words.headline(verdict_of(run)).startswith("At linf:0.2 ")


# how it is made


def test_nothing_of_a_run_is_markup(tmp_path: Path) -> None:
    plan = threat(EVIL, stages=[stage(EVIL, note=EVIL), stage("b", inapplicable=EVIL)]) | {"words": EVIL, "notes": [EVIL]}
    what = spec(1, [plan], model={"name": EVIL, "source": EVIL}, data={"name": EVIL, "class_names": [EVIL] * 10})
    what |= {"findings": [{"severity": EVIL, "code": EVIL, "message": EVIL}], "id": EVIL, "mohs": EVIL}
    what |= {"request": {"given": {EVIL: EVIL}, "defaulted": {EVIL: [EVIL]}, "command": EVIL}}
    what |= {
        "policy": [{"requirement": EVIL, "met": True, "value": 0.5}],
        "environment": {"python": EVIL, "packages": {EVIL: EVIL}},
    }
    what["plan"] |= {"guide": [EVIL], "goals": [EVIL], "profile": {"name": EVIL, "version": EVIL, "words": EVIL}}
    run = Run.create(tmp_path / "run", what)
    x = np.zeros((1, 1, 8, 8), np.float32)
    stored = {"ids": np.array([0]), "threat": np.zeros(1, np.int16), "goal": np.zeros(1, np.int16), "adversarial": x + 0.1}
    stored |= {"distance": np.array([0.05]), "label": np.array([1])}
    commit(run, [row(0, 0, "broken"), row(0, -1, "survived")], stored)
    commit(run, [row(0, 0, "error", reason=EVIL)], {}, chunk=1)
    run.keep_gallery({"ids": np.array([0]), "x": x, "y": np.array([0]), "label": np.array([0])})
    page = write_report(run, tmp_path / "r.html")
    source, reader = page.read_text(encoding="utf-8"), read(page)
    assert "<script>alert" not in source
    assert "alert(" in source
    assert [tag for tag, _ in reader.tags].count("script") == 3
    assert source.count("</script>") == 3
    assert not any(name[:2] == "on" for _, attributes in reader.tags for name in attributes)
    assert words.SEES["gradient"] in visible(page)


def test_it_opens_without_a_network(page: Path) -> None:
    reader = read(page)
    for tag, attributes in reader.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            if attributes.get(name):
                assert str(attributes[name]).startswith(("data:", "#")), (tag, attributes)
        assert tag not in ("iframe", "object", "embed", "base")
    source = page.read_text(encoding="utf-8")
    assert re.findall(r"https?://|@import|url\(|//cdn", source) == []
    assert source.count('id="plotly"') == 1


def test_it_is_small_quick_and_loads_neither_torch_nor_plotlys_python(tmp_path: Path) -> None:
    run = digits_run(tmp_path / "run", 1000)
    started = time.process_time()
    page = write_report(run, tmp_path / "r.html")
    assert time.process_time() - started < 2
    assert page.stat().st_size < 6e6
    code = "import sys; from mohs.report import write_report; write_report(sys.argv[1], sys.argv[2])\n"
    code += "print(sorted({'torch', 'sklearn', 'scipy', 'plotly.graph_objs'} & set(sys.modules)))"
    command = [sys.executable, "-W", "error", "-c", code, str(run.folder), str(tmp_path / "again.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, mohs.report; print(sorted({'torch', 'plotly', 'pandas', 'numpy', 'jinja2', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_it_can_be_read_by_ear(page: Path) -> None:
    reader = read(page)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("h1") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert pictures
    assert all(p["alt"] for p in pictures)
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in reader.tags if tag == "th")
    ids = [str(attributes["id"]) for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [attributes[name] for _, attributes in reader.tags for name in ("aria-labelledby", "for") if attributes.get(name)]
    assert set(named) <= set(ids)
    links = [str(attributes["href"])[1:] for tag, attributes in reader.tags if tag == "a"]
    assert set(links) <= set(ids)


def test_a_report_that_cannot_be_written_is_a_wrong_request(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write the page"):
        write_report(run, tmp_path / "file" / "r.html")
    with pytest.raises(RequestError, match="is not a run"):
        write_report(tmp_path, tmp_path / "r.html")


# what it draws


def test_the_curve_is_the_verdicts(verdict: Verdict) -> None:
    for found in verdict.threats:
        drawn = figures.curve(found)
        scale, unit = words.units(found.text)
        assert (scale, unit) == ((255.0, "/255") if "255" in found.text else (1.0, ""))
        assert drawn["x"][0] == 0.0
        assert drawn["y"][0] == pytest.approx(100 * (1 - found.natural_error), abs=1e-3)
        assert drawn["epsilon"] == pytest.approx(found.epsilon * scale, rel=1e-5)
        for x, after, y in zip(drawn["x"], drawn["x"][1:], drawn["y"], strict=False):
            assert y == pytest.approx(100 * found.accuracy_at((x + after) / 2 / scale), abs=1e-3)
        audited = next(r for r in figures.sample(drawn) if r["x"] == drawn["epsilon"])
        assert audited["y"] == pytest.approx(100 * found.accuracy_at(found.epsilon), abs=1e-3)
        assert all(low <= y <= high for low, y, high in zip(drawn["low"], drawn["y"], drawn["high"], strict=True))
        json.dumps(drawn, allow_nan=False)


def test_a_long_curve_is_thinned_and_keeps_the_audited_step(tmp_path: Path) -> None:
    rows = [row(i, -1, "survived") for i in range(2000)]
    rows += [row(i, 0, "broken", distance=0.1 if i == 0 else 0.0001 * i) for i in range(2000)]
    found = verdict_of(make_run(tmp_path / "run", spec(2000), rows)).threats[0]
    drawn = figures.curve(found)
    assert len(drawn["x"]) <= figures.STEPS + 1
    assert 0.1 in drawn["x"]
    assert drawn["y"][drawn["x"].index(0.1)] == pytest.approx(100 * found.accuracy_at(0.1))


def test_the_matrix_counts_every_success_once(verdict: Verdict) -> None:
    for found in verdict.threats:
        m = figures.matrix(found)
        assert sum(map(sum, m.counts)) + m.left_out == (found.status == "broken").sum() == found.natural + found.boundary
        for i, c in enumerate(m.classes):
            assert m.broken[i] == sum(m.counts[i]) == ((found.y == c) & (found.status == "broken")).sum()
            assert m.attacked[i] == (found.y == c).sum()


def test_a_matrix_of_many_classes_keeps_the_busiest(tmp_path: Path) -> None:
    rows = [row(i, -1, "survived", y=i % 50) for i in range(100)]
    rows += [row(i, 0, "broken", y=i % 50, label=99 if i % 50 < 5 else 50 + i % 50) for i in range(100)]
    m = figures.matrix(verdict_of(make_run(tmp_path / "run", spec(100), rows)).threats[0])
    assert len(m.classes) == figures.CLASSES
    assert 99 in m.classes
    assert m.left_out == 100 - sum(map(sum, m.counts)) > 0


def gallery_of(tmp_path: Path, x: np.ndarray, after: np.ndarray, **more: Any) -> list[pictures.Picture]:
    """The gallery of a run of one threat with budget 0.1."""
    n = len(x)
    run = Run.create(tmp_path / "run", spec(n, data={"shape": list(x.shape[1:])}))
    stored = {"ids": np.arange(n), "threat": np.zeros(n, np.int16), "goal": np.zeros(n, np.int16), "adversarial": after}
    stored |= {"distance": np.full(n, 0.05), "label": np.ones(n, np.int64)} | more
    commit(run, [row(i, 0, "broken") for i in range(n)], stored)
    commit(run, [row(i, -1, "survived") for i in range(n)], {})
    run.keep_gallery({"ids": np.arange(n), "x": x, "y": np.zeros(n, np.int64), "label": np.zeros(n, np.int64)})
    page = write_report(run, tmp_path / "r.html")
    assert page.stat().st_size < 6e6
    return pictures.gallery(run, verdict_of(run).threats)[0]


def pixels(uri: str) -> np.ndarray:
    import base64
    import io

    from PIL import Image

    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (8, 8, 1), (3, 8, 8), (8, 8, 3)])
def test_images_in_either_order_of_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random((2, *shape)).astype(np.float32) * 0.8
    (first, _) = gallery_of(tmp_path, x, x + np.float32(0.05))
    assert pixels(first.clean).shape == ((8, 8, 3) if 3 in shape else (8, 8))
    assert first.magnified == 10
    assert set(np.unique(pixels(first.change))) <= {254, 255}
    mean = pixels(first.adversarial).mean() - pixels(first.clean).mean()
    assert mean == pytest.approx(0.05 * 255, abs=1)
    assert (first.before, first.after, first.distance) == (0, 1, 0.05)


def test_pictures_survive_any_layout_in_memory(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32).transpose(0, 3, 1, 2) * np.float32(0.8)
    assert not x.flags["C_CONTIGUOUS"]
    (first, _) = gallery_of(tmp_path, x, x + np.float32(0.05))
    assert np.array_equal(pixels(first.clean), np.rint(x[0].transpose(1, 2, 0).astype(np.float64) * 255))
    assert np.ptp(pixels(first.change)) <= 1


def test_large_images_are_drawn_smaller_and_say_so(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((3, 3, 150, 300)).astype(np.float32)
    (first, *_) = gallery_of(tmp_path, x, np.clip(x + np.float32(0.01), 0, 1))
    assert pixels(first.clean).shape == (48, 96, 3)
    assert "300 × 150 pixels, drawn smaller" in visible(tmp_path / "r.html")


def test_what_is_no_image_names_its_largest_changes(tmp_path: Path) -> None:
    x = np.full((1, 20), 0.5, np.float32)
    after = x.copy()
    after[0, [3, 7]] = 0.6, 0.2
    (first,) = gallery_of(tmp_path, x, after)
    assert [c.index for c in first.changes] == ["7", "3"]
    assert (first.changes[0].start, first.changes[0].width) == pytest.approx((0.2, 0.3))
    assert "7 0.5 0.2" in visible(tmp_path / "r.html")


def test_successes_beyond_the_budget_are_not_shown(tmp_path: Path) -> None:
    x = np.full((2, 1, 8, 8), 0.5, np.float32)
    shown = gallery_of(tmp_path, x, x + np.float32(0.05), distance=np.array([0.2, 0.1]))
    assert [p.id for p in shown] == [1]


def test_the_gallery_shows_every_class_in_turn_at_its_least_distance(run: Run, verdict: Verdict) -> None:
    for number, shown in enumerate(pictures.gallery(run, verdict.threats)):
        found = verdict.threats[number]
        assert len(shown) == pictures.EACH
        assert len({p.y for p in shown}) == pictures.EACH
        for p in shown:
            assert p.distance == found.distance[found.ids.tolist().index(p.id)] <= found.epsilon


def test_the_store_reads_only_what_is_asked_for(run: Run) -> None:
    every = [i for unit in run.examples() for i in unit["ids"].tolist()]
    some = list(run.examples({3, 5}))
    assert [i for unit in some for i in unit["ids"].tolist()] == [i for i in every if i in (3, 5)]
    assert all(unit["adversarial"].shape[1:] == (1, 8, 8) for unit in some)
    whole = next(run.examples())
    assert np.array_equal(some[0]["adversarial"], whole["adversarial"][np.isin(whole["ids"], [3, 5])])


# its siblings


def test_json_holds_every_number_and_no_nan(verdict: Verdict, tmp_path: Path) -> None:
    told = json.loads(json.dumps(as_json(verdict), allow_nan=False))
    assert told["clean_accuracy"]["low"] == verdict.clean.low
    for found, said in zip(verdict.threats, told["threats"], strict=True):
        assert said["text"] == found.text
        assert said["robust_accuracy"]["interval95"] == list(found.score.interval)
        assert (said["natural"], said["boundary"]) == (found.natural, found.boundary)
        assert [s["forwards"] for s in said["stages"]] == [s.forwards for s in found.stages]
        assert sum(said["broken_by"].values()) == found.boundary
    (met, empty) = as_json(verdict, [Requirement("a", True, 0.5, 0.25), Requirement("b", False, math.nan, 0.5)])["policy"]
    assert met == {"text": "a", "met": True, "value": 0.5, "bound": 0.25}
    assert empty["value"] is None
    nothing = [threat("l2:inf", math.inf)]
    empty = as_json(verdict_of(make_run(tmp_path / "run", spec(1, nothing), [row(0, -1, "inapplicable")])))
    assert json.loads(json.dumps(empty, allow_nan=False))["threats"][0]["robust_accuracy"]["low"] is None
    assert empty["threats"][0]["epsilon"] is None


def test_the_table_has_a_row_a_case(verdict: Verdict) -> None:
    rows = table(verdict)
    assert rows.num_rows == sum(found.score.n for found in verdict.threats) == 256
    assert rows.schema.names == ["id", "threat", "goal", "y", "status", "by", "label", "distance", "proved"]
    robust = sum(found.score.robust for found in verdict.threats)
    assert rows["status"].to_pylist().count("robust") == robust
    assert set(rows["goal"].to_pylist()) == {"untargeted"}
    assert rows["distance"].to_pylist()[:128] == verdict.threats[0].distance.tolist()


def test_the_terminal_says_the_same(verdict: Verdict) -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(summary(verdict))
    said = captured.get()
    for found in verdict.threats:
        line = next(line for line in said.splitlines() if line.startswith(found.text))
        assert words.score(found.score) in line
        assert f"[{words.interval(found.score)}]" in said
        assert f"{found.natural_error:.1%} + {found.boundary_error:.1%}" in line
        assert f"apgd-ce {found.stages[0].broken}" in line
        assert f"{sum(s.forwards + s.backwards for s in found.stages):,}" in line
    assert "undecided at l2:0.5: 3 (undecided: rounding)" in said
    assert "profile standard 1.0, n = 128" in said


def test_a_narrow_terminal_drops_no_column(verdict: Verdict) -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(summary(verdict))
    for cell in ("linf:8/255", "94.5%", "47.7% to 50.0%", "5.5% + 46.9%", "fab-t 4", "1,885", "2 min"):
        assert cell in captured.get()


def test_nor_does_it_cut_a_unit_where_a_name_is_long(tmp_path: Path) -> None:
    plan = threat("perceptual:0.5", stages=[stage("ppgd")])
    rows = [row(i, -1, "survived") for i in range(16)]
    rows += [row(i, 0, "broken" if i < 5 else "undecided" if i < 7 else "survived", seconds=7.0) for i in range(16)]
    rows = [{**one, "forwards": 1234567, "backwards": 1234567} for one in rows]
    console = Console(width=80)
    with console.capture() as captured:
        console.print(summary(verdict_of(make_run(tmp_path / "run", spec(16, [plan]), rows))))
    for cell in ("perceptual:0.5", "56.2% to 68.8%", "39,506,144", "2 min"):
        assert cell in captured.get()


def test_the_terminal_takes_markup_for_text(tmp_path: Path) -> None:
    plan = threat("[bold]linf[/bold]:[/]", stages=[stage("a"), stage("b")])
    run = make_run(
        tmp_path / "run", spec(3, [plan]), [row(0, -1, "survived"), row(0, 0, "error", reason="[/red]")], complete=False
    )
    console = Console(width=200)
    with console.capture() as captured:
        console.print(summary(verdict_of(run)))
    assert "[bold]linf[/bold]:[/]" in captured.get()
    assert "(error: [/red])" in captured.get()
    assert f"mohs resume {run.folder}" in captured.get().replace("\n", "")


# in a real browser


SIZES = [pytest.param(390, 844, id="phone"), pytest.param(1280, 800, id="desktop")]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("dark", [False, True])
def test_it_renders_in_a_browser(browser: Chrome, page: Path, width: int, height: int, dark: bool) -> None:
    browser.get_log("browser")
    show(browser, page, width, height, dark=dark)
    assert browser.get_log("browser") == []
    ask = browser.execute_script
    assert ask(
        "return [...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.scatterlayer path.js-line').length)"
    ) == [3, 3]
    assert ask("return document.documentElement.scrollWidth <= window.innerWidth")
    assert ask("return document.querySelector('h1').getBoundingClientRect().bottom") < height
    bottom = "return document.querySelectorAll('.card')[1].querySelector('.gauge').getBoundingClientRect().bottom"
    assert ask(bottom) < height, "the robust accuracy is above the fold"
    paper, ink = (brightness(ask(f"return getComputedStyle(document.body).{name}")) for name in ("backgroundColor", "color"))
    assert (paper < 60 and ink > 190) if dark else (paper > 230 and ink < 60)
    plotted = brightness(ask("return getComputedStyle(document.querySelector('.xtick text')).fill"))
    assert (plotted > 130) == dark
    assert ask("return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length") == 0


def brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in re.findall(r"[\d.]+", colour)[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_the_slider_reads_the_curve(browser: Chrome, page: Path, verdict: Verdict) -> None:
    show(browser, page, 1280, 800)
    said = "const s = document.getElementById('slider-1'); s.value = arguments[0]; s.dispatchEvent(new Event('input'));"
    said += "return document.getElementById('said-1').textContent"
    for epsilon in (0, 2.5, 8, 12):
        accuracy = verdict.threats[0].accuracy_at(epsilon / 255)
        assert browser.execute_script(said, epsilon).startswith(f"At ε = {epsilon}/255 at most {100 * accuracy:.1f}% withstand")
    line = "return document.getElementById('plot-1').layout.shapes.map(s => s.x0)"
    assert browser.execute_script(line) == [8, 12]


def test_the_scheme_may_change_while_it_is_open(browser: Chrome, page: Path) -> None:
    show(browser, page, 1280, 800)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    fill = "return new Promise(done => setTimeout(() => done(getComputedStyle(document.querySelector('.xtick text')).fill), 300))"
    assert brightness(browser.execute_script(fill)) > 130


def test_text_stands_out_from_its_ground(browser: Chrome, page: Path) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 for text, in both schemes."""
    for dark in (False, True):
        show(browser, page, 1280, 800, dark=dark)
        name = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
        for ground in ("--paper", "--card"):
            for text in ("--ink", "--soft", "--good", "--bad", "--robust"):
                pair = [luminance(browser.execute_script(name, part)) for part in (ground, text)]
                assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5, (dark, ground, text)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_page_of_extremes_keeps_its_width_and_draws(browser: Chrome, tmp_path: Path) -> None:
    """Long names, no budget, nothing broken, another threat with no example."""
    long = "a_very_long_name_without_any_space_in_it_" * 4
    plans = [threat("l2:inf", math.inf, [stage("curve", kind="measure")]), threat(f"linf:0.1+mask:{long}.npy")]
    what = spec(3, plans, model={"name": long}, data={"name": long, "class_names": [long + str(i) for i in range(10)]})
    rows = [row(i, -1, "survived") for i in range(2)] + [row(2, -1, "broken")] + [row(0, 0, "broken", distance=3.0)]
    page = write_report(make_run(tmp_path / "run", what, rows), tmp_path / "r.html")
    browser.get_log("browser")
    show(browser, page, 390, 844)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert len(browser.execute_script("return [...document.querySelectorAll('.plot .main-svg')]")) > 0


def test_a_picture_of_the_page_can_be_taken(browser: Chrome, page: Path, tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(screenshot(browser, page, tmp_path / "page.png", 1280, 800)) as picture:
        assert picture.size == (1280, 800)
        assert len(set(picture.convert("L").tobytes())) > 50


def test_what_was_spent_is_told(verdict: Verdict) -> None:
    """Every pass of the stages, and the dearest stages by name; a line in the terminal for `deep` alone."""
    for found, told in zip(verdict.threats, as_json(verdict)["threats"], strict=True):
        passes = sum(stage.forwards + stage.backwards for stage in found.stages)
        assert told["spent"]["forwards"] + told["spent"]["backwards"] == passes
        assert told["spent"]["queries"] == sum(stage.queries for stage in found.stages)
        line = words.spent(found)
        assert line.startswith(f"{found.text} cost {passes:,} passes")
        dearest = max(found.stages, key=lambda stage: stage.forwards + stage.backwards)
        assert f"{dearest.name} {(dearest.forwards + dearest.backwards) / passes:.1%} on {dearest.tried} examples" in line
