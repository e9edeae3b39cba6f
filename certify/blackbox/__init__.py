"""Prediction services as base classifiers: whatever answers with a label can be smoothed and certified.

One adapter per kind of service says how it is asked; one client (`ServiceVotes`) asks all of them, and is a `VoteSource`
like the engine on this machine: estimators, runner and journal do not know the difference.
"""

from certify.blackbox.adapter import Adapter
from certify.blackbox.answers import Answer, NoAnswerError, RefusedError, ServiceError
from certify.blackbox.budget import Budget, BudgetError
from certify.blackbox.caller import CallSettings
from certify.blackbox.canary import Canaries
from certify.blackbox.labels import LabelMap
from certify.blackbox.source import ServiceVotes
from certify.blackbox.store import AnswerStore, MemoryStore, StoredAnswer
from certify.blackbox.table import ADAPTERS, build_adapter

__all__ = [
    "ADAPTERS",
    "Adapter",
    "Answer",
    "AnswerStore",
    "Budget",
    "BudgetError",
    "CallSettings",
    "Canaries",
    "LabelMap",
    "MemoryStore",
    "NoAnswerError",
    "RefusedError",
    "ServiceError",
    "ServiceVotes",
    "StoredAnswer",
    "build_adapter",
]
