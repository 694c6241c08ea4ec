"""Section `report`: what the page says of itself."""

from workflow.config.section import Section


class ReportConfig(Section):
    title: str = "What did reinforcement learning change?"
    """Heading of the page."""
