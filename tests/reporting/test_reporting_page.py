"""The page: escaped, self-contained, the same bytes for the same data, a table behind every plot, no empty plot."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from voxshard.reporting import plots, trial_sections
from voxshard.reporting.comparability import rank, split_order
from voxshard.reporting.html import render
from voxshard.reporting.page import Plots
from voxshard.reporting.report_data import (
    Confusion,
    EmbeddingMap,
    MetricEstimate,
    ReportData,
    SplitResult,
    System,
    TrainingCurve,
)
from voxshard.reporting.systems import training_curves
from voxshard.reporting.vector import distinct, short

Make = Callable[..., ReportData]
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks nesting and collects what a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.problems: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")


@pytest.fixture(scope="module")
def page(make_report: Make) -> str:
    return render(make_report())


def test_the_same_data_gives_the_same_bytes(make_report: Make, page: str) -> None:
    assert render(make_report()) == page


def test_the_page_is_well_formed_and_its_ids_are_unique(page: str) -> None:
    parsed = Page(page)
    assert parsed.problems == []
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    targets = {value[1:] for _, name, value in parsed.attributes if name == "href" and value.startswith("#")}
    labelled = {part for _, name, value in parsed.attributes if name == "aria-labelledby" for part in value.split()}
    assert targets | labelled <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(parsed.ids)


def test_nothing_is_loaded_from_anywhere_and_nothing_runs(page: str) -> None:
    assert re.findall(r"https?:|//[a-z]|@import|javascript:", page) == []
    parsed = Page(page)
    loading = [
        (tag, name) for tag, name, _ in parsed.attributes if name in ("src", "srcset", "data", "xlink:href", "onload")
    ]
    assert loading == []
    assert not {tag for tag, _, _ in parsed.attributes} & {"script", "iframe", "link", "object", "embed"}


def test_the_page_forbids_scripts_and_anything_from_elsewhere(page: str) -> None:
    assert "Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page


def test_what_users_named_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert "part_001/&lt;script&gt;alert(1)&lt;/script&gt;.wav" in page
    assert "0 samples &amp; nothing to embed" in page


def test_names_that_would_break_markup_or_a_drawing_are_shown_as_they_are(make_report: Make) -> None:
    name = '</svg><script>x</script> $\\frac{ "日本" & --> %'
    plain = make_report().systems[0]
    page = render(make_report(title=name, systems=[System(**{**vars(plain), "name": name})], comparisons=[]))
    assert "<script" not in page
    assert "&lt;/svg&gt;&lt;script&gt;x&lt;/script&gt; $\\frac{ &#34;日本&#34; &amp; --&gt; %" in page
    assert Page(page).problems == []


def test_every_drawing_has_a_title_a_description_and_a_table_behind_it(page: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) == page.count("<svg") > 15
    for figure in figures:
        assert re.search(
            r'<svg [^>]*role="img" aria-labelledby="(\S+) (\S+)"><title id="\1">[^<]+</title>'
            r'<desc id="\2">[^<]+</desc>',
            figure,
        )
        assert re.search(r"<details>.*<tbody>\s*<tr>.*</table>", figure, re.DOTALL)


def test_every_drawing_has_words_on_both_axes(page: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
        words = [text for text in texts if re.search(r"[a-zA-Z%]", text)]
        assert len(words) >= 2, svg[:300]


def test_every_table_has_a_caption_and_heads_of_rows_and_columns(page: str) -> None:
    tables = re.findall(r"<table>.*?</table>", page, re.DOTALL)
    assert len(tables) > 25
    for table in tables:
        assert re.search(r"<table>\s*<caption[^>]*>[^<]{4,}</caption>\s*<thead><tr><th scope=\"col\"", table)
        rows = re.findall(r"<tr>", table[table.index("<tbody>") :])
        assert len(rows) == table.count('<tr><th scope="row"')


def test_headings_leave_out_no_level(page: str) -> None:
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_the_numbers_of_a_confusion_matrix_add_up_to_the_utterances(page: str) -> None:
    figure = re.search(r'<figure id="confusion-0".*?</figure>', page, re.DOTALL)
    assert figure is not None
    counts = [int(number) for number in re.findall(r'<td class="number">(\d+)</td>', figure[0])]
    said = re.search(r"(\d+) of (\d+) utterances are on the diagonal", figure[0])
    assert said is not None
    size = int(len(counts) ** 0.5)
    assert (sum(counts[:: size + 1]), sum(counts)) == (int(said[1]), int(said[2]))


def test_results_stand_in_the_table_with_intervals_and_the_best_is_marked_in_words(page: str) -> None:
    results = page[page.index('<section id="results"') : page.index('<section id="detection"')]
    assert "<small>6.71–10.71</small>" in results
    assert "12.34" in results
    assert re.search(
        r'class="best"><span class="mark" title="best">★<span class="spoken"> best</span></span> 8\.71<', results
    )
    assert re.search(r"not distinguishable from the best</span></span> 9\.12<", results)


def test_the_summary_says_in_words_what_came_out(page: str) -> None:
    best = "lfcc-logistic-0 and 1 other have the best equal error rate: 8.71 % (95 % interval 6.71 to 10.71 %)."
    assert f"5 systems were trained to predict “label”; on eval (400 utterances), {best}" in page
    verdict = "does not distinguish lfcc-logistic-0 from 1 of the 2 systems it was compared with"
    assert f"The paired bootstrap test {verdict}." in page
    assert "mfcc: 1,298 of 1,320 utterances were embedded, 2 failed and 20 are still to do." in page


def test_the_accounting_shows_every_split_and_every_reason(page: str) -> None:
    data = page[page.index('<section id="data"') :]
    row = "".join(f'<td class="number">{count}</td>' for count in ("420", "400", "0", "20", "0.00"))
    assert f'<tr><th scope="row">mfcc</th><td>eval</td>{row}</tr>' in data
    assert "EmptyAudioError" in data


def test_a_report_of_features_alone_says_that_nothing_was_trained(make_report: Make) -> None:
    page = render(make_report(systems=[], comparisons=[]))
    assert "There are no results: nothing was trained on these features yet." in page
    assert "No system was trained." in page
    assert 'id="detection"' not in page
    assert 'id="data"' in page


def test_a_run_without_scores_is_named_and_draws_nothing(make_report: Make) -> None:
    system = System(
        name="a",
        kind="classification",
        label="key",
        features="mfcc",
        classifier="knn",
        not_scored="trained, but not scored.",
    )
    page = render(make_report(systems=[system], comparisons=[], feature_sets=[]))
    assert "<svg" not in page
    assert "a: trained, but not scored." in page
    assert "One system was trained to predict “key”; none was scored on labelled utterances." in page


def test_metrics_that_nobody_could_compute_are_dashes(make_report: Make) -> None:
    split = SplitResult(num_utterances=3, metrics={"eer": MetricEstimate(None), "accuracy": MetricEstimate(1.0)})
    system = System(name="a", kind="detection", label="key", features="mfcc", classifier="knn", splits={"eval": split})
    page = render(make_report(systems=[system], comparisons=[], feature_sets=[]))
    assert '<td class="number">–</td><td class="number">100.00</td>' in page


def test_a_set_without_a_map_says_why(make_report: Make) -> None:
    plain = make_report().feature_sets[0]
    page = render(
        make_report(
            feature_sets=[type(plain)(**{**vars(plain), "embedding_map": None, "no_map": "too few embeddings."})]
        )
    )
    assert "mfcc: too few embeddings." in page
    assert "Embeddings of mfcc" not in page


def test_a_map_with_more_values_than_markers_draws_the_rest_in_grey(make_report: Make) -> None:
    plain = make_report().feature_sets[0]
    values = [f"class {number % 30}" for number in range(90)]
    sample = EmbeddingMap(
        points=np.random.default_rng(0).normal(size=(90, 2)),
        explained=(0.5, 0.2),
        columns={"label": values},
        num_total=90,
    )
    page = render(make_report(feature_sets=[type(plain)(**{**vars(plain), "embedding_map": sample})]))
    assert "18 others" in page
    assert page.count('<th scope="row">class ') >= 30


def test_long_names_keep_their_ends() -> None:
    assert short("a-very-long-system-name-with-a-seed-12345", 20) == "a-very-lon…eed-12345"
    assert short("short") == "short"


def test_systems_with_the_same_headline_are_ranked_by_the_next_metric() -> None:
    def system(name: str, **metrics: float) -> System:
        estimates = {key: MetricEstimate(value) for key, value in metrics.items()}
        splits = {"eval": SplitResult(metrics=estimates)}
        return System(name=name, kind="detection", label="key", features="mfcc", classifier="knn", splits=splits)

    view = rank([system("a", eer=0.1), system("b", eer=0.1, min_dcf=0.4), system("c", eer=0.1, min_dcf=0.3)], "eval")
    assert view.headline == "eer"
    assert [item.name for item in view.order] == ["c", "b", "a"]


def test_splits_to_judge_by_come_first_and_training_last() -> None:
    metrics = {"accuracy": MetricEstimate(0.5)}
    splits = {name: SplitResult(metrics=metrics) for name in ("train", "folds", "dev", "eval")}
    system = System(name="a", kind="classification", label="key", features="mfcc", classifier="knn", splits=splits)
    assert split_order([system]) == ["eval", "dev", "folds", "train"]


def test_losses_learning_rates_and_metrics_of_a_training_have_axes_of_their_own() -> None:
    epochs, names = np.arange(1.0, 4.0), ("train_loss", "validation_loss", "learning_rate", "validation_uar")
    curves = [TrainingCurve(name=name, epochs=epochs, values=epochs) for name in names]
    system = System(name="a", kind="classification", label="key", features="", classifier="vgg", training=curves)
    section = trial_sections.training([system])
    assert section is not None
    (block,) = section.blocks
    assert isinstance(block, Plots)
    assert [plot.key for plot in block.plots] == ["training-0-loss", "training-0-rate", "training-0-metric"]


def test_what_was_kept_all_along_is_drawn_in_place_of_what_was_kept_per_epoch() -> None:
    curve = pa.table({"epoch": [0.5, 1.0], "train_loss": [2.0, 1.0], "learning_rate": [0.1, 0.05]})
    epochs = pa.table({"epoch": [1.0], "train_loss": [1.5], "learning_rate": [0.05], "validation_loss": [1.2]})
    drawn = {found.name: found.values.tolist() for found in training_curves(curve, epochs)}
    assert drawn == {"train_loss": [2.0, 1.0], "learning_rate": [0.1, 0.05], "validation_loss": [1.2]}
    assert training_curves(None, None) == []


def test_names_that_differ_in_the_middle_stay_distinct() -> None:
    names = [f"class number {number:02d} of the long list" for number in range(3)]
    assert len({short(name, 18) for name in names}) == 1
    assert len(set(distinct(names, 18))) == 3
    assert distinct(["a", "b"], 18) == ["a", "b"]


def test_a_matrix_of_fifty_classes_is_drawn_over_the_whole_width() -> None:
    labels = [f"class{number:02d}" for number in range(50)]
    matrix = Confusion(labels=labels, counts=np.eye(50, dtype=np.int64))
    drawn = plots.confusion(matrix, key="c", system="knn", where="test")
    assert drawn is not None
    assert drawn.wide
    assert all(name in drawn.svg for name in labels)


def test_of_a_large_grid_the_best_are_shown_and_the_others_folded(make_report: Make) -> None:
    metrics = [{"eer": MetricEstimate(0.05 + number / 1000)} for number in range(200)]
    splits = [SplitResult(num_utterances=400, metrics=metrics[number]) for number in range(200)]
    first = make_report().systems[0]
    systems = [replace(first, name=f"run-{n:03d}", splits={"eval": split}) for n, split in enumerate(splits)]
    page = render(make_report(systems=systems, comparisons=[]))
    assert "The other 170 systems" in page
    assert "Configs of all 200 runs" in page
    assert "The first 60 of 200; the numbers below have them all." in page
    assert page.index("run-029") < page.index("The other 170 systems") < page.index("run-199")


def test_runs_with_other_settings_are_no_repetitions(make_report: Make) -> None:
    first = make_report().systems[0]
    systems = [replace(first, name=f"pca-{n}", seed=n, settings=f"pca: {n}") for n in range(3)]
    assert "Mean over seeds" not in render(make_report(systems=systems, comparisons=[]))
    alike = [replace(system, settings="pca: 0") for system in systems]
    assert "Mean over seeds" in render(make_report(systems=alike, comparisons=[]))


def test_of_more_classes_than_a_matrix_can_show_the_confusions_are_in_an_open_table(make_report: Make) -> None:
    labels = [f"word{number:03d}" for number in range(200)]
    counts = 5 * np.eye(200, dtype=np.int64)
    counts[3, 7] = 2
    split = SplitResult(
        num_utterances=1002,
        metrics={"accuracy": MetricEstimate(0.998)},
        confusion=Confusion(labels=labels, counts=counts),
    )
    system = System(name="a", kind="classification", label="w", features="f", classifier="knn", splits={"eval": split})
    page = render(make_report(systems=[system], comparisons=[], feature_sets=[]))
    section = page[page.index('<section id="confusion"') : page.index('<section id="provenance"')]
    assert "1,000 of 1,002 utterances are correct. 200 classes are too many for a matrix." in section
    assert "word003</th><td>word007</td>" in section
    assert "<details>" not in section


def test_classes_and_systems_whose_names_begin_with_an_underscore_are_in_the_legends(make_report: Make) -> None:
    first = make_report().systems[0]
    split = first.splits["eval"]
    assert split.histogram is not None
    counts = {f"_{name}": values for name, values in split.histogram.counts.items()}
    histogram = replace(split.histogram, counts=counts, threshold=None)
    system = replace(first, name="_a", splits={"eval": replace(split, histogram=histogram)})
    page = render(make_report(systems=[system], comparisons=[], feature_sets=[]))
    drawn = re.sub("\N{ZERO WIDTH SPACE}", "", "".join(re.findall(r"<text[^>]*>([^<]+)</text>", page)))
    assert "_a" in drawn
    assert all(name in drawn for name in counts)


def test_many_notes_are_shown_in_part_and_none_is_lost(make_report: Make) -> None:
    page = render(make_report(notes=[f"Run {number} is left out: no model" for number in range(300)]))
    assert page.index("Run 9 is") < page.index("290 more") < page.index("Run 10 is") < page.index("Run 299 is")
