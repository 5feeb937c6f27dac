"""The top of a report: a paragraph and a few numbers."""

from __future__ import annotations

from voxshard.reporting import measures
from voxshard.reporting.comparability import LEVEL, Topic, topics
from voxshard.reporting.page import Tile
from voxshard.reporting.report_data import ReportData


def in_words(data: ReportData) -> str:
    """Return a few sentences: which system is best and how certainly, on which data, and what is missing."""
    missing = ["Something is left out; the reasons are under “Left out”."] if data.notes else []
    return " ".join([*_systems(data), *_features(data), *missing])


def _features(data: ReportData) -> list[str]:
    sentences, complete = [], list[str]()
    for features in data.feature_sets:
        total = sum(account.num_total for account in features.accounts)
        ok = sum(account.num_ok for account in features.accounts)
        failed = sum(account.num_failed for account in features.accounts)
        pending = sum(account.num_pending for account in features.accounts)
        if not total or (ok == total and len(data.feature_sets) > 1):
            complete += [features.name] if total else []
            continue
        outcome = "no utterance failed" if not failed else f"{failed:,} failed"
        waiting = f" and {pending:,} are still to do" if pending else ""
        name = features.name if features.name == features.encoder else f"{features.name} ({features.encoder})"
        sentences.append(f"{name}: {ok:,} of {total:,} utterances were embedded, {outcome}{waiting}.")
    if len(sentences) > 3:
        sentences[3:] = [f"{len(sentences) - 3} more feature sets with failed or missing utterances are listed below."]
    if complete:
        more = f" and {len(complete) - 3} more" if len(complete) > 3 else ""
        sentences.append(f"{', '.join(complete[:3])}{more}: every utterance was embedded.")
    return sentences


def _systems(data: ReportData) -> list[str]:
    subjects = topics(data)
    if not subjects:
        return ["No system was trained."]
    return [sentence for topic in subjects for sentence in _topic(topic)]


def _topic(topic: Topic) -> list[str]:
    count = len(topic.systems)
    trained = ("One system was" if count == 1 else f"{count} systems were") + f" trained to predict “{topic.label}”"
    if not topic.splits:
        return [f"{trained}; none was scored on labelled utterances."]
    view = topic.view(topic.splits[0])
    if view.headline is None or not view.order:
        return [f"{trained}."]
    best, how = view.order[0], measures.measure(view.headline)
    result = how.in_words(view.estimate(best))
    known = best.splits[view.split].num_utterances
    where = view.split + ("" if known is None else f" ({known:,} utterances)")
    if count == 1:
        return [f"{trained}, {best.name}: on {where} its {how.title} is {result}."]
    equal = sum(view.estimate(system).value == view.estimate(best).value for system in view.order) - 1
    who = f"{best.name} has" if not equal else f"{best.name} and {equal} other{'s' * (equal > 1)} have"
    sentences = [f"{trained}; on {where}, {who} the best {how.title}: {result}."]
    here = [item for item in topic.comparisons if item.split == view.split and item.first == best.name]
    if here:
        alike = sum(item.p_value >= LEVEL for item in here)
        verdict = "does not distinguish" if alike else "distinguishes"
        part = "any" if alike == len(here) else alike or "all"
        them = f"{part} of the {len(here)} systems it was compared with" if len(here) > 1 else here[0].second
        sentences.append(f"The paired bootstrap test {verdict} {best.name} from {them}.")
    return sentences


def tiles(data: ReportData) -> list[Tile]:
    """Return the few numbers at the top of a report."""
    shown = []
    for topic in topics(data)[:2]:
        view = topic.view(topic.splits[0]) if topic.splits else None
        if view and view.headline:
            how, estimate = measures.measure(view.headline), view.estimate(view.order[0])
            interval = how.interval(estimate)
            number = how.number(estimate.value) + (" %" if how.percent else "")
            label = f"{'best ' * (len(view.order) > 1)}{how.title} on {view.split}"
            shown.append(Tile(number, label, f"95 % interval {interval}" if interval else ""))
    if data.systems:
        shown.append(Tile(f"{len(data.systems):,}", "system" if len(data.systems) == 1 else "systems"))
    accounts = [account for features in data.feature_sets for account in features.accounts]
    if accounts:
        sets = len(data.feature_sets)
        embedded, failed, pending = (
            sum(counts)
            for counts in zip(*((item.num_ok, item.num_failed, item.num_pending) for item in accounts), strict=True)
        )
        shown.append(Tile(f"{embedded:,}", "utterances embedded", f"in {sets} feature sets" if sets > 1 else ""))
        shown.append(Tile(f"{failed:,}", "utterances failed", f"{pending:,} still to do" if pending else ""))
    return shown
