"""The memory map in a real browser: it is opened from its file, without a network, and driven as people drive it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import memomalloc
from caching_allocator import CachingAllocator, OutOfMemoryError, train, write
from memomalloc.data import Calls, Trace
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.report import snapshot_map
from memomalloc.report.html_page import write_page
from memomalloc.report.placement import Placement
from memomalloc.report.resident_memory import Finding, ResidentMemory, ResidentPart
from memomalloc.report.snapshot_map import placements_of_memory
from sample_traces import MIB, large_trace, small_trace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="drives Chromium: pip install playwright")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
#: On a busy machine; what is measured on a quiet one is in benchmarks/memory_map.py.
MAX_OPEN_S = 10.0


@dataclass
class Visit:
    """A page that is open, and what it should not have done."""

    page: Any
    open_s: float
    faults: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def chosen_buffer(self) -> str:
        return self.text("#details h2")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def point(self, tick_share: float, offset_share: float, pane: int = 0) -> tuple[float, float]:
        """Pixels of a place in a map, by its share of the plot; (0, 0) is at the left and the bottom."""
        box = self.page.locator(".map").nth(pane).bounding_box()
        left, right, top, bottom = 68, 14, 6, 24  # MARGIN of curve.js
        return (
            box["x"] + left + tick_share * (box["width"] - left - right),
            box["y"] + top + (1 - offset_share) * (box["height"] - top - bottom),
        )

    def row(self, number: int) -> list[str]:
        """What is in a row of the groups."""
        cells = self.page.locator("#groups tbody tr").nth(number).locator("td").all_inner_texts()
        return [cell.strip() for cell in cells]

    def hover(self, tick_share: float, offset_share: float, pane: int = 0) -> None:
        self.page.mouse.move(*self.point(tick_share, offset_share, pane))
        self.settle()

    def tick_at(self, tick_share: float) -> int:
        """The tick that is shown for a place of the map."""
        self.hover(tick_share, 0.99)
        return int(self.text(".now").partition("tick ")[2].partition(":")[0].replace(",", ""))

    def pixel(self, x: float, y: float) -> list[int]:
        colour: list[int] = self.page.evaluate(
            """([x, y]) => {
              const canvas = document.querySelector(".map canvas");
              const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
              return [...canvas.getContext("2d").getImageData((x - box.x) * scale, (y - box.y) * scale, 1, 1).data];
            }""",
            [x, y],
        )
        return colour[:3]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """Opens placements; in the end no page may have logged, failed, or asked the network for anything."""
    visits: list[Visit] = []

    def open_page(
        *placements: Placement, width: int = 1280, resident: ResidentMemory | None = None, **options: Any
    ) -> Visit:
        path = tmp_path / f"map{len(visits)}.html"
        write_page(placements, path, title="a model", resident=resident)
        context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **options)
        page = context.new_page()
        visit = Visit(page, 0.0)
        page.on("console", lambda message: visit.faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: visit.faults.append(f"error: {error}"))
        page.on(
            "request", lambda request: request.url == path.as_uri() or visit.faults.append(f"request: {request.url}")
        )
        began = time.perf_counter()
        page.goto(path.as_uri())
        visit.settle()
        visit.open_s = time.perf_counter() - began
        visits.append(visit)
        return visit

    yield open_page
    for number, visit in enumerate(visits):
        visit.page.screenshot(path=tmp_path / f"map{number}.png")
        assert visit.faults == []
        visit.page.context.close()


def placed(trace: Trace, planner: str = "auto", title: str | None = None) -> Placement:
    return Placement.of_plan(memomalloc.plan(trace, planner=planner), trace=trace, title=title)


def colour_of(css: str) -> list[int]:
    return [int(part) for part in css.removeprefix("rgb(").removesuffix(")").split(",")]


def test_what_is_where(visit: Callable[..., Visit]) -> None:
    placement = placed(small_trace())
    here = visit(placement)
    assert "buffers 5 · arena 7.00 MiB" in here.text(".facts")
    # The output has a place of its own from the first tick on.
    assert "lower bound 7.00 MiB (peak 5.00 MiB + 2.00 MiB kept for outputs)" in here.text(".facts")
    assert "peak, tick 3: 5.00 MiB alive" in here.text(".now")
    # The middle of buffer 1, ticks [1, 5) of 12, has the colour of its group in the list.
    height = placement.extent_bytes * 1.02
    x, y = here.point(2.5 / 12, (placement.offsets[1] + placement.sizes[1] * 0.4) / height)
    swatch = here.page.evaluate(
        "getComputedStyle([...document.querySelectorAll('#groups button')]"
        ".find((button) => button.textContent === 'stem.conv').querySelector('.swatch')).backgroundColor"
    )
    assert here.pixel(x, y) == colour_of(swatch)
    swatches = here.page.evaluate(
        "[...document.querySelectorAll('#groups .swatch')].map((at) => getComputedStyle(at).backgroundColor)"
    )
    assert len(set(swatches)) == 4
    here.page.mouse.move(x, y)
    here.settle()
    assert here.chosen_buffer() == "scratch · 3.00 MiB"
    details = here.text("#details")
    for text in ("ticks [1, 5), 4 long", "stem.conv", "aten::outer \u203a aten::scratch", "net.py:10 in forward"):
        assert text in details
    assert "scratch 3.00 MiB" in here.text(".tip")


def test_the_groups_are_a_summary(visit: Callable[..., Visit]) -> None:
    here = visit(placed(small_trace()))
    here.page.select_option("#by", "operator")
    assert here.row(0) == ["aten::scratch", "1", "3.00 MiB", "3.00 MiB"]
    assert here.page.locator("#groups tbody tr").count() == 4
    here.page.select_option("#by", "module")
    here.page.select_option("#depth", "1")
    assert {name.strip() for name in here.page.locator("#groups tbody button").all_inner_texts()} == {
        "stem", "body", "head",
    }  # fmt: skip


def test_search_highlights_and_steps_through_what_it_finds(visit: Callable[..., Visit]) -> None:
    placement = placed(small_trace())
    here = visit(placement)
    x, y = here.point(2.5 / 12, (placement.offsets[1] + placement.sizes[1] * 0.4) / (placement.extent_bytes * 1.02))
    before = here.pixel(x, y)
    here.press("/")
    here.page.keyboard.type("conv2d body")
    here.settle()
    assert here.text("#matches") == "1 found, 64.0 KiB"
    dimmed = here.pixel(x, y)
    assert sum(dimmed) > sum(before)  # closer to white
    here.press("Enter")
    assert here.chosen_buffer() == "conv2d · 64.0 KiB"
    here.press("Escape")
    assert here.text("#matches") == ""
    assert here.pixel(x, y) == before


def test_a_group_can_be_chosen(visit: Callable[..., Visit]) -> None:
    here = visit(placed(small_trace()))
    here.page.click("#groups button:has-text('head')")
    assert here.text("#matches") == "1 found, 2.00 MiB"
    assert here.page.get_attribute("#groups tr.chosen button", "aria-pressed") == "true"


def test_the_wheel_zooms_where_the_pointer_is(visit: Callable[..., Visit]) -> None:
    here = visit(placed(large_trace(2000), planner="skyline"))
    left, middle, right = (here.tick_at(share) for share in (0.0, 0.5, 1 - 1e-3))
    here.hover(0.5, 0.5)
    for _ in range(5):
        here.page.mouse.wheel(0, -300)
    here.settle()
    assert abs(here.tick_at(0.5) - middle) <= 0.01 * (right - left)
    zoomed = here.tick_at(1 - 1e-3) - here.tick_at(0.0)
    assert 0 < zoomed < (right - left) / 5
    here.press("0")
    assert (here.tick_at(0.0), here.tick_at(1 - 1e-3)) == (left, right)


def test_the_keyboard_does_it_all(visit: Callable[..., Visit]) -> None:
    here = visit(placed(large_trace(2000), planner="skyline"))
    right = here.tick_at(1 - 1e-3)
    here.press("+", "+", "+")
    assert here.tick_at(1 - 1e-3) < right
    left = here.tick_at(0.0)
    here.press("ArrowRight")
    assert here.tick_at(0.0) > left
    here.press("ArrowLeft", "-", "-", "-")
    assert here.tick_at(1 - 1e-3) == pytest.approx(right, abs=2)
    here.press("0")
    here.page.mouse.move(5, 5)
    here.press("n", "n", "p")
    assert "ticks [0," in here.text("#details")
    here.page.focus(".map")
    here.press("Enter")
    assert here.tick_at(1 - 1e-3) < right / 2
    here.page.mouse.move(5, 5)
    here.press("Escape")
    assert here.chosen_buffer() == "Point at a buffer"
    here.press("g")
    assert here.page.get_attribute("#tab-alive", "aria-selected") == "true"
    here.press("?")
    assert here.page.evaluate("document.getElementById('keys').open")
    here.press("Escape")
    assert not here.page.evaluate("document.getElementById('keys').open")


def test_the_choice_of_a_key_is_shown_until_the_pointer_moves(visit: Callable[..., Visit]) -> None:
    placement = placed(small_trace())
    here = visit(placement)
    share = (placement.offsets[1] + placement.sizes[1] * 0.4) / (placement.extent_bytes * 1.02)
    x, y = here.point(2.5 / 12, share)
    here.page.mouse.click(x, y)
    here.settle()
    assert here.chosen_buffer() == "scratch · 3.00 MiB"
    here.press("n")
    assert here.chosen_buffer() == "relu · 1.00 MiB"
    assert here.page.locator(".tip").count() == 0
    here.page.mouse.move(x + 1, y)
    here.settle()
    assert here.chosen_buffer() == "scratch · 3.00 MiB"
    here.press("Escape")
    assert here.chosen_buffer() == "Point at a buffer"


def test_the_tip_lies_on_its_buffer_where_there_is_room(visit: Callable[..., Visit]) -> None:
    placement = placed(small_trace())
    here = visit(placement)
    extent = placement.extent_bytes * 1.02
    here.hover(2.5 / 12, (placement.offsets[1] + placement.sizes[1] * 0.4) / extent)
    tip = here.page.locator(".tip").bounding_box()
    left, bottom = here.point(1 / 12, placement.offsets[1] / extent)
    right, top = here.point(5 / 12, (placement.offsets[1] + placement.sizes[1]) / extent)
    assert left <= tip["x"]
    assert tip["x"] + tip["width"] <= right
    assert top <= tip["y"]
    assert tip["y"] + tip["height"] <= bottom


def test_drag_moves_and_shift_drag_frames(visit: Callable[..., Visit]) -> None:
    here = visit(placed(large_trace(2000), planner="skyline"))
    right = here.tick_at(1 - 1e-3)
    here.page.keyboard.down("Shift")
    here.page.mouse.move(*here.point(0.25, 0.25))
    here.page.mouse.down()
    here.page.mouse.move(*here.point(0.75, 0.75), steps=4)
    here.page.mouse.up()
    here.page.keyboard.up("Shift")
    here.settle()
    framed = here.tick_at(0.0), here.tick_at(1 - 1e-3)
    assert framed == (pytest.approx(right / 4, abs=right / 100), pytest.approx(right * 3 / 4, abs=right / 100))
    here.page.mouse.move(*here.point(0.5, 0.5))
    here.page.mouse.down()
    here.page.mouse.move(*here.point(0.4, 0.5), steps=4)
    here.page.mouse.up()
    assert here.tick_at(0.0) == pytest.approx(framed[0] + (framed[1] - framed[0]) / 10, rel=0.1)


def test_who_is_alive_at_the_peak(visit: Callable[..., Visit]) -> None:
    here = visit(placed(small_trace()))
    here.page.click("#tab-alive")
    assert "3 buffers, 5.00 MiB alive at the peak (tick 3)" in here.text("#alive caption")
    here.page.focus("#alive tbody tr:nth-child(2) button")
    here.press("Enter")
    assert here.chosen_buffer() == "conv2d · 1.00 MiB"
    assert here.page.evaluate("document.activeElement.closest('#alive') !== null")
    here.page.focus("#tab-alive")
    here.press("ArrowLeft")
    assert here.page.is_visible("#groups")


def test_two_plans_of_one_trace_side_by_side(visit: Callable[..., Visit]) -> None:
    here = visit(placed(small_trace(), "skyline"), placed(small_trace(), "bump"))
    assert here.page.locator(".pane").count() == 2
    here.press("n", "n")
    details = here.text("#details")
    assert "in skyline" in details
    assert "in bump" in details


def test_addresses_of_an_allocator_beside_the_plan(visit: Callable[..., Visit]) -> None:
    addresses = [0x7F0000000000, 0x7F0000400000, 0x5500001000, 0x5500001000, 0x7F0000000000]
    here = visit(placed(small_trace(), title="plan"), Placement.of_addresses(small_trace(), addresses, title="glibc"))
    facts = here.page.locator(".facts").all_inner_texts()
    assert "arena 7.00 MiB" in facts[0]
    assert "extent" in facts[1]
    assert "lower bound" not in facts[1]


def test_two_traces_side_by_side(visit: Callable[..., Visit]) -> None:
    here = visit(placed(small_trace(), title="before"), placed(small_trace(scale=2), title="after"))
    heads = here.page.locator("#groups th").all_inner_texts()
    assert heads == ["group", "peak of before", "peak of after"]
    assert here.row(0) == [
        "stem.conv",
        "4.00 MiB",
        "8.00 MiB",
    ]


def test_a_plan_alone_is_coloured_by_size(visit: Callable[..., Visit]) -> None:
    here = visit(Placement.of_plan(memomalloc.plan(small_trace())))
    assert here.page.locator("#by option").all_inner_texts() == ["size"]
    assert here.page.is_disabled("#search")
    assert "--trace" in here.page.get_attribute("#search", "placeholder")
    assert here.page.locator("#groups tbody button").all_inner_texts() == [
        "16 to 64 KiB", "256 KiB to 1 MiB", "1 to 4 MiB",
    ]  # fmt: skip


def test_labels_that_do_not_fit_end_in_an_ellipsis(visit: Callable[..., Visit]) -> None:
    name = "a_name_that_is_far_too_long_for_the_rectangle_of_its_buffer"
    origin = Origin((f"aten::{name}",), "module", None, "output", 0)
    trace = Trace.from_arrays([MIB, MIB], [0, 9], [9, 10], [False, False], end_tick=10, origins=[origin, origin])
    here = visit(placed(trace))
    here.page.evaluate(
        """() => {
          const fill = CanvasRenderingContext2D.prototype.fillText;
          window.texts = [];
          CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
            window.texts.push(text);
            fill.call(this, text, ...place);
          };
        }"""
    )
    here.press("+", "0")
    texts = here.page.evaluate("window.texts")
    (clipped,) = {text for text in texts if text.endswith("\u2026")}
    assert name.startswith(clipped[:-1])
    assert len(clipped) > 3


def test_light_and_dark(visit: Callable[..., Visit]) -> None:
    here = visit(placed(small_trace()), color_scheme="dark")
    assert sum(here.pixel(*here.point(0.99, 0.99))) < 150
    here.press("t")
    assert sum(here.pixel(*here.point(0.99, 0.99))) == 3 * 255
    here = visit(placed(small_trace()), color_scheme="light")
    assert sum(here.pixel(*here.point(0.99, 0.99))) == 3 * 255


def test_everything_has_a_name_for_assistive_technology(visit: Callable[..., Visit]) -> None:
    here = visit(placed(small_trace()))
    nameless = here.page.evaluate(
        """[...document.querySelectorAll("button, input, select, [role]")].filter((at) =>
          !at.ariaLabel && !at.textContent.trim() && !at.labels?.length && !at.getAttribute("aria-labelledby"))
          .map((at) => at.outerHTML)"""
    )
    assert nameless == []
    assert "5 buffers" in here.page.get_attribute(".map", "aria-label")


def test_a_narrow_screen_has_it_all_below_each_other(visit: Callable[..., Visit]) -> None:
    here = visit(placed(small_trace()), width=420)
    assert here.page.evaluate("document.documentElement.scrollWidth") <= 420


def test_nothing_is_shown_as_nothing(visit: Callable[..., Visit]) -> None:
    here = visit(placed(Trace.from_arrays([], [], [])))
    here.press("n", "g", "+", "0", "Escape")
    assert "without reuse 0 B" in here.text(".facts")


def test_time_may_begin_anywhere(visit: Callable[..., Visit]) -> None:
    problem = memomalloc.Problem.from_arrays([MIB, MIB], [-500, -450], [-400, -401])
    here = visit(Placement.of_plan(memomalloc.plan(problem)))
    assert "tick -450: 2.00 MiB alive" in here.text(".now")
    assert here.tick_at(0.0) == -500
    assert here.tick_at(1 - 1e-3) == -401


@pytest.mark.slow
def test_a_hundred_thousand_buffers_open_and_stay_fluid(visit: Callable[..., Visit]) -> None:
    here = visit(placed(large_trace(100_000), planner="skyline"))
    assert here.open_s < MAX_OPEN_S
    began = time.perf_counter()
    for _ in range(10):
        here.press("+")
        here.hover(0.5, 0.5)
    assert (time.perf_counter() - began) / 10 < 1.0
    here.page.screenshot()


@pytest.mark.slow
def test_the_map_of_resnet50_is_small_and_opens_at_once(visit: Callable[..., Visit], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.ResNetModel(transformers.ResNetConfig()).eval()
    images = torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        model(images)
        with memomalloc.record() as recording:
            outputs = model(images)
    here = visit(placed(recording.trace))
    assert (tmp_path / "map0.html").stat().st_size < MIB
    assert here.open_s < MAX_OPEN_S
    here.page.select_option("#by", "operator")
    assert "aten::mkldnn_convolution" in here.text("#groups")
    del outputs


def test_a_program_is_recorded_and_shown(
    visit: Callable[..., Visit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from memomalloc.cli import main

    script = tmp_path / "program.py"
    script.write_text(
        "import sys, torch\n"
        "print('hello from the program')\n"
        "net = torch.nn.Sequential(torch.nn.Linear(64, int(sys.argv[1])), torch.nn.ReLU())\n"
        "for _ in range(3):\n"
        "    net(torch.ones(1000, 64))\n"
    )
    assert main(["show", "--json", str(script), "--", "512"]) == 0
    captured = capsys.readouterr()
    (found,) = json.loads(captured.out)["placements"]
    assert "hello from the program" in captured.err
    assert {"aten::addmm", "aten::clamp_min"} <= {group["name"] for group in found["by_operator"]}
    script.write_text("raise SystemExit(3)")
    assert main(["show", str(script)]) == 2
    assert "ended with status 3" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_account_of_the_process_is_beside_its_tensors(visit: Callable[..., Visit], scheme: str) -> None:
    parts = (
        ResidentPart("tensors alive", 64 * MIB, 48 * MIB, "other tensors that Python reaches"),
        ResidentPart("files mapped", 100 * MIB, -2 * MIB, "smaps"),
    )
    finding = Finding("tensors that stay alive", ("48 MiB more by <kept>",), ("let go of them",))
    resident = ResidentMemory("program.py has: tensors that stay alive", "It grew by 46 MiB.", parts, (finding,))
    map_ = visit(placed(small_trace()), resident=resident, color_scheme=scheme)
    map_.page.click("#tab-resident")
    shown = map_.text("#resident")
    for text in (resident.verdict, resident.growth, "48 MiB more by <kept>", "remedy: let go of them"):
        assert text in shown
    cells = [row.inner_text().split("\t") for row in map_.page.locator("#resident tbody tr").all()]
    assert [row[-2:] for row in cells] == [
        ["64.0 MiB", "+48.0 MiB"],
        ["100 MiB", "\N{MINUS SIGN}2.00 MiB"],
        ["164 MiB", "+46.0 MiB"],
    ]
    # Other maps have no such tab, and the keys skip it.
    other = visit(placed(small_trace()))
    assert not other.page.locator("#tab-resident").is_visible()
    other.page.focus("#tab-groups")
    other.page.keyboard.press("ArrowLeft")
    assert other.page.get_attribute("#tab-advice", "aria-selected") == "true"
    # Where growth is not known, there is no column for it.
    unknown = tuple(dataclasses.replace(part, growth_bytes=None) for part in parts)
    once = visit(placed(small_trace()), resident=dataclasses.replace(resident, parts=unknown))
    assert once.page.locator("#resident thead th").count() == 2


# --- Snapshots of GPUs ---------------------------------------------------------------------------------------------


def snapshot_placements(tmp_path: Path, num_steps: int = 6) -> list[Placement]:
    allocator = CachingAllocator()
    train(allocator, num_steps=num_steps)
    snapshot = memomalloc.read_snapshot(write(tmp_path / "snapshot.pickle", allocator))
    (memory,) = snapshot.memories
    return placements_of_memory(memory, memomalloc.plan(memory.problem()), annotations=snapshot.annotations)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_snapshot_is_shown_with_its_segments_beside_a_plan(
    visit: Callable[..., Visit], tmp_path: Path, scheme: str
) -> None:
    real, beside = snapshot_placements(tmp_path)
    map_ = visit(real, beside, color_scheme=scheme)
    facts = map_.page.locator(".facts").all_inner_texts()
    assert "reserved 30.0 MiB (at the peak 28.0 MiB for 8.52 MiB alive)" in facts[0]
    assert "lower bound 8.53 MiB" in facts[1]
    assert "kept for outputs" not in facts[1]
    assert "of 28.0 MiB reserved" in map_.page.locator(".now").nth(0).inner_text()
    assert "reserved" not in map_.page.locator(".now").nth(1).inner_text()
    assert "Pale: what the allocator had reserved" in map_.text("#details")
    assert "Striped" not in map_.text("#details")
    # Nothing lives in the highest segment at the end: its own paper is there, neither the page's nor a buffer's.
    reserved = real.reserved
    assert reserved is not None
    free = max(range(len(reserved.offsets)), key=lambda i: int(reserved.offsets[i]))
    middle = (int(reserved.offsets[free]) + int(reserved.sizes[free]) - 2 * MIB) / (real.extent_bytes * 1.02)
    colour = map_.page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--segment')").strip()
    assert map_.pixel(*map_.point(0.98, middle)) == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    # A buffer that is chosen is chosen in both.
    map_.page.click("#tab-alive")
    map_.page.locator("#alive tbody button").first.click()
    assert map_.chosen_buffer()


def test_what_the_program_said_of_times_is_above_the_curve(visit: Callable[..., Visit], tmp_path: Path) -> None:
    allocator = CachingAllocator(capacity=64 * MIB)
    allocator.annotate("<b>epoch</b>", "START")
    train(allocator, num_steps=4)
    with pytest.raises(OutOfMemoryError):
        allocator.alloc(64 * MIB)
    snapshot = memomalloc.read_snapshot(write(tmp_path / "snapshot.pickle", allocator))
    (memory,) = snapshot.memories
    (real,) = placements_of_memory(memory, None, annotations=snapshot.annotations)
    map_ = visit(real)
    plot = map_.page.locator(".u-over").bounding_box()
    step = real.marks[1]
    share = ((step.start + step.end) / 2 - int(memory.starts[0])) / (memory.end_tick - int(memory.starts[0]))
    map_.page.mouse.move(plot["x"] + share * plot["width"], plot["y"] - 10)
    assert map_.page.locator(".curve").get_attribute("title") == "<b>epoch</b>\nstep"
    map_.page.mouse.move(plot["x"] + plot["width"] - 2, plot["y"] + 10)
    assert "out of memory: 64.0 MiB" in (map_.page.locator(".curve").get_attribute("title") or "")


def test_a_map_of_many_buffers_says_what_it_draws(
    visit: Callable[..., Visit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_map, "MAX_RECTANGLES", 60)
    monkeypatch.setattr(snapshot_map, "_RESOLUTION", 20)
    real, beside = snapshot_placements(tmp_path, num_steps=60)
    map_ = visit(real, beside)
    facts = map_.page.locator(".facts").all_inner_texts()
    assert "buffers, " in facts[0]
    assert "are one rectangle" in facts[0]
    assert "the largest are drawn" in facts[1]
    assert "of 28.0 MiB reserved" in map_.text(".now"), "the curve is of all buffers"
    assert "There are more buffers than rectangles" in map_.text("#details")


def _with_calls(trace: Trace) -> Trace:
    """A trace of which the second buffer may take the memory of the first."""
    origin = [Origin((f"aten::{name}",), "body", SourceLine("/code/net.py", line, "forward"), "call") for name, line in
              (("conv2d", 10), ("relu", 11))]  # fmt: skip
    calls = Calls.from_arrays([0, 1], [1, 2], origins=origin, read_counts=[0, 1], read_buffers=[0])
    sizes, starts, ends = [trace.sizes[0]] * 2, [0, 1], [2, 3]
    return Trace.from_arrays(sizes, starts, ends, origins=trace.origins[:2], calls=calls)


def test_the_peak_explains_itself_and_leads_to_advice(visit: Callable[..., Visit]) -> None:
    here = visit(placed(_with_calls(small_trace())))
    mark = here.page.locator("button.peak")
    assert mark.inner_text() == "peak 2.00 MiB"
    assert "2.00 MiB are alive while aten::relu runs at code/net.py:11 in body" in mark.get_attribute("title")
    mark.click()
    assert "1.00 MiB read by the operator that runs" in here.text("#alive p")
    assert "made by the operator that runs" in here.text("#alive tbody tr >> nth=1")
    here.page.click("#alive button.link")
    assert here.page.get_attribute("#tab-advice", "aria-selected") == "true"
    advice = here.text("#advice")
    assert "This gives most: 2.00 MiB → 1.00 MiB (50 % less)" in advice
    assert "nn.ReLU(inplace=True)" in advice
    assert "bit for bit" in advice
    # The keyboard leads through the three lists.
    here.page.focus("#tab-advice")
    here.press("ArrowRight")
    assert here.page.get_attribute("#tab-groups", "aria-selected") == "true"


def test_a_map_without_calls_says_how_to_get_advice(visit: Callable[..., Visit]) -> None:
    here = visit(placed(small_trace()))
    here.page.click("#tab-advice")
    assert "this file does not say who read its tensors" in here.text("#advice")
