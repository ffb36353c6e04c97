"""What lies in a run directory, as values: one frozen model for each artefact, written whole and read with care.

Whoever writes an artefact gives every field. Whoever reads one meets files of older versions and damaged ones: `parse`
fills what an older version did not write (`OLDER`) and ignores what it does not know; `salvage` also leaves out what
has an unexpected shape and says so. docs/run-directory.md is made from these classes.

record.py       what every artefact is
plan.py data.py result.py comparison.py manifest.py export.py    the artefacts
                result.py also holds the lines of metrics and samples, and the status
"""

from __future__ import annotations

from tunesmith.run.artefacts.comparison import (
    BlindChoice,
    BlindResult,
    ComparedBase,
    ComparedTuned,
    Comparison,
    ComparisonCounts,
    GroupLoss,
    GroupLosses,
    Interval,
    NamedRow,
    Sample,
    Score,
    Vote,
    Wrote,
)
from tunesmith.run.artefacts.data import (
    SEVERITIES,
    ChatAccount,
    DataAccount,
    Dropped,
    FileAccount,
    Finding,
    Histogram,
    LongAccount,
    RowNames,
    RowsMet,
    RowsRead,
    Severity,
    SplitAccount,
    numbered,
)
from tunesmith.run.artefacts.export import Export, ExportFormat, Quant, QuantCost, RoundTrip
from tunesmith.run.artefacts.manifest import (
    CheckpointInfo,
    FileEntry,
    Manifest,
)
from tunesmith.run.artefacts.plan import (
    ASKED,
    CONTINUES_WITH,
    STEPS_TO_COME,
    Dtype,
    Fit,
    MeasuredRun,
    Method,
    Offload,
    Optimizer,
    Plan,
    Precision,
    Predicted,
    PredictedDisk,
    PredictedMemory,
    PredictedTime,
    Schedule,
    Sharding,
)
from tunesmith.run.artefacts.record import (
    Artefact,
    JsonObject,
    Record,
)
from tunesmith.run.artefacts.result import (
    EvalScores,
    Event,
    MetricsLine,
    Result,
    SamplesLine,
    State,
    Status,
    WrittenText,
)

ARTEFACTS: tuple[type[Artefact], ...] = (Plan, DataAccount, Result, Comparison, Status, Manifest, Export)

__all__ = [
    "ARTEFACTS",
    "ASKED",
    "Artefact",
    "BlindChoice",
    "BlindResult",
    "CONTINUES_WITH",
    "CheckpointInfo",
    "ComparedBase",
    "ComparedTuned",
    "Comparison",
    "ComparisonCounts",
    "ChatAccount",
    "DataAccount",
    "Dropped",
    "Dtype",
    "EvalScores",
    "Event",
    "Export",
    "ExportFormat",
    "FileAccount",
    "FileEntry",
    "Finding",
    "Fit",
    "GroupLoss",
    "GroupLosses",
    "Histogram",
    "Interval",
    "JsonObject",
    "LongAccount",
    "Manifest",
    "MeasuredRun",
    "Method",
    "MetricsLine",
    "NamedRow",
    "Offload",
    "Optimizer",
    "Plan",
    "Precision",
    "Predicted",
    "PredictedDisk",
    "PredictedMemory",
    "PredictedTime",
    "Quant",
    "QuantCost",
    "Record",
    "Result",
    "RoundTrip",
    "RowNames",
    "RowsMet",
    "RowsRead",
    "SEVERITIES",
    "STEPS_TO_COME",
    "Sample",
    "SamplesLine",
    "Schedule",
    "Sharding",
    "Score",
    "Severity",
    "SplitAccount",
    "State",
    "Status",
    "Vote",
    "WrittenText",
    "Wrote",
    "numbered",
]
