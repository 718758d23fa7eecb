"""The ways out: one contract, and a module for each kind of next hop."""

from __future__ import annotations

from gateway.outbound.providers.contract import AboutToCommit, Outcome, Outgoing, Provider, Stage, Verdict
from gateway.outbound.providers.urls import from_url

__all__ = ["AboutToCommit", "Outcome", "Outgoing", "Provider", "Stage", "Verdict", "from_url"]
