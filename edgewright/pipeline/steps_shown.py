"""Where the command line prints, and the progress that it shows while work goes on."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from edgewright.pipeline.stages import STAGES
from edgewright.progress import Announcement, progress
from edgewright.terminal import terminal

__all__ = ["console", "errors", "steps_shown"]

console = terminal()
errors = terminal(stderr=True)


@contextmanager
def steps_shown() -> Iterator[None]:
    """The five stages as a bar, and the step that runs now as a line below it, each with its time."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        # A list of each title, as two threads may run a step of one.
        running: dict[str, list[TaskID]] = {}
        stages: list[TaskID] = []

        def listener(event: Announcement) -> None:
            if event.note:
                errors.print(f"note: {event.title}", soft_wrap=True, highlight=False)
            elif event.stage:
                # With the first stage, as most commands have none.
                if not stages:
                    stages.append(bar.add_task(escape(event.title), total=len(STAGES)))
                bar.update(stages[0], description=f"[bold]{escape(event.title)}", advance=1 if event.done else 0)
            elif event.done:
                bar.remove_task(running[event.title].pop())
            else:
                running.setdefault(event.title, []).append(bar.add_task(escape(event.title), total=None))

        with progress.listening(listener):
            yield
