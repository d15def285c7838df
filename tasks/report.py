"""The report files of a run: JSON, Markdown, a page and a plot; linked from Prefect, kept in MLflow."""

import re
from pathlib import Path

from prefect.artifacts import create_link_artifact

from edgewright.pipeline.result import DeploymentResult
from edgewright.store import home, replace_file
from tasks.caching import step

__all__ = ["PAGE_NAME", "write_report"]

PAGE_NAME = "report.html"


@step("Writing the report")
def write_report(result: DeploymentResult) -> list[Path]:
    """Files under ``.edgewright/reports/<deployment id>``; empty where validation was not reached."""
    from edgewright.report.ledger import ledger_csv
    from edgewright.report.markdown import report_markdown
    from edgewright.report.page import report_html
    from edgewright.report.picture import report_svg
    from edgewright.report.sensitivity import sensitivity_csv, sensitivity_svg

    report, optimization = result.report, result.optimization
    if report is None or optimization is None:
        return []
    folder = home() / "reports" / result.deployment_id
    files = {
        "report.json": report.model_dump_json(indent=2).encode(),
        "report.md": report_markdown(report, optimization.model.name, result.device, optimization.ledger).encode(),
        PAGE_NAME: report_html(
            report,
            model=optimization.model.name,
            device=result.device,
            sizes=optimization.sizes(),
            ledger=optimization.ledger,
        ).encode(),
        "report.svg": report_svg(report, optimization.sizes(), optimization.ledger),
    }
    if optimization.ledger:
        files["ledger.csv"] = ledger_csv(optimization.ledger)
    measured = next((step.exported for step in optimization.steps if step.exported and step.exported.sensitivity), None)
    if measured is not None:
        files |= {"sensitivity.csv": sensitivity_csv(measured), "sensitivity.svg": sensitivity_svg(measured)}
    for name, content in files.items():
        replace_file(folder / name, content)
    create_link_artifact(
        # All that a Prefect key may hold is lower-case letters, digits and dashes.
        key=re.sub(r"[^a-z0-9]+", "-", f"page-{optimization.model.name}-{result.device}".lower()),
        link=(folder / PAGE_NAME).as_uri(),
        link_text=PAGE_NAME,
        description="One self-contained page; also in the bundle, and in MLflow beside this run's figures.",
    )
    return [folder / name for name in files]
