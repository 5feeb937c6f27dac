"""Conversion of a report's data to the sections of its page; sections without content are omitted."""

from __future__ import annotations

from voxshard.reporting import feature_sections, result_sections, trial_sections
from voxshard.reporting.comparability import topics
from voxshard.reporting.page import Section
from voxshard.reporting.report_data import ReportData


def build(data: ReportData) -> list[Section]:
    """Return all sections: results first, provenance last."""
    subjects = topics(data)
    sections: list[Section | None] = [] if subjects else [result_sections.no_results()]
    for topic in subjects:
        sections.append(result_sections.results(topic))
        for view in topic.views:
            sections += trial_sections.of_view(view)
        sections.append(trial_sections.few_shot(topic))
    sections += [
        feature_sections.left_out(data.notes),
        trial_sections.training(data.systems),
        feature_sections.maps(data.feature_sets),
        feature_sections.accounting(data.feature_sets),
        feature_sections.speed(data.feature_sets),
        feature_sections.jobs(data.jobs),
        feature_sections.provenance(data),
    ]
    return [section for section in sections if section is not None]
