"""Evaluation sets and training batches: text, files, datasets, generated tasks."""

from circuit_econ.evaluation.parts import Part
from circuit_econ.evaluation.record import UNSCORED, Evaluation
from circuit_econ.evaluation.settings import TaskSettings, TextSettings
from circuit_econ.evaluation.sources import KINDS, make, training_data
from circuit_econ.evaluation.stream import TrainingData
from circuit_econ.evaluation.tasks import TASKS, Task, make_task

__all__ = [
    "KINDS",
    "TASKS",
    "UNSCORED",
    "Evaluation",
    "Part",
    "Task",
    "TaskSettings",
    "TextSettings",
    "TrainingData",
    "make",
    "make_task",
    "training_data",
]
