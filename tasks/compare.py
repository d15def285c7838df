"""Reads pipeline runs back from tracking, by MLflow's id, by the deployment's, or by the start of either."""

from collections.abc import Sequence

from edgewright.errors import InputError
from edgewright.plain_text import without_password
from edgewright.report.comparison import ComparedRun
from tasks.tracking import answering, configure_client, tracking_uri

__all__ = ["read_runs"]

_MAX_RUNS = 5000
_MIN_PREFIX = 6  # shorter starts of an id name too many runs


def read_runs(run_ids: Sequence[str]) -> list[ComparedRun]:
    """The figures of these runs, in the order asked for.

    Raises:
        InputError: an id that no run has, or several.
        TrackingUnavailableError: the tracking server did not answer.
    """
    configure_client()
    from mlflow import MlflowClient

    with answering("did not answer"):
        client = MlflowClient(tracking_uri=tracking_uri())
        experiment_ids = [str(experiment.experiment_id) for experiment in client.search_experiments()]
        runs = client.search_runs(experiment_ids, max_results=_MAX_RUNS) if experiment_ids else []
    # Child runs are the stages and techniques of a pipeline.
    pipelines = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    names = {
        name: run for run in pipelines for name in (str(run.info.run_id), run.data.tags.get("deployment_id")) if name
    }
    selection = [names[_whole(asked, list(names))] for asked in run_ids]
    return [
        ComparedRun(
            run_id=str(run.info.run_id),
            name=str(run.info.run_name),
            tags={k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")},
            metrics=dict(run.data.metrics),
        )
        for run in selection
    ]


def _whole(asked: str, known: Sequence[str]) -> str:
    matching = [
        run_id for run_id in known if run_id == asked or (len(asked) >= _MIN_PREFIX and run_id.startswith(asked))
    ]
    if len(matching) == 1:
        return matching[0]
    problem = "no run has" if not matching else f"{len(matching)} runs have"
    at = without_password(tracking_uri())
    raise InputError(f"{problem} the id '{asked}' at {at}; give a run's id, or its first {_MIN_PREFIX} letters")
