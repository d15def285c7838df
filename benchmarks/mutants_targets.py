"""What is mutated, and which tests must notice: the guards whose failure nobody would see at once."""

from typing import NamedTuple

__all__ = ["TARGETS", "Target"]


class Target(NamedTuple):
    """Functions of one file, and the test files that hold them."""

    guard: str
    file: str
    functions: tuple[str, ...]
    tests: tuple[str, ...]


TARGETS = (
    Target(
        "digests",
        "edgewright/store.py",
        ("Store.put", "Store.holds", "Store.in_use", "Store.unused", "Store._place", "replace_file", "_is_whole"),
        ("tests/test_store.py", "tests/test_upkeep.py"),
    ),
    Target("locks", "edgewright/locks.py", ("locked",), ("tests/test_locks.py",)),
    Target(
        "splits",
        "edgewright/intake/splits.py",
        ("split_rows", "thinned", "_share", "_interleaved"),
        ("tests/intake/test_splits.py",),
    ),
    Target(
        "gates",
        "edgewright/validate/verdict.py",
        ("judge", "benefit", "accuracy_fault", "_class_fault", "_size_fault", "_emulated_line", "_line", "_notes"),
        ("tests/validate/test_verdict.py",),
    ),
    Target("gates", "edgewright/validate/decision.py", ("decision_of",), ("tests/validate/test_decision.py",)),
    Target("tolerances", "edgewright/validate/parity.py", ("check_outputs",), ("tests/validate/test_parity.py",)),
    Target(
        "tolerances",
        "edgewright/export/parity_check.py",
        ("_judged", "_relative", "_not_finite"),
        ("tests/export/test_parity_limits.py",),
    ),
    Target("tolerances", "edgewright/export/real_rows.py", ("real_rows",), ("tests/export/test_parity_limits.py",)),
    Target(
        "retries", "tasks/caching.py", ("step", "run", "is_transient", "artifacts_in"), ("tests/tasks/test_caching.py",)
    ),
    Target(
        "idempotency",
        "tasks/tracking.py",
        ("upload_waiting", "_sent", "_complete_run", "_crown"),
        ("tests/tasks/test_tracking.py",),
    ),
    Target(
        "digests",
        "edgewright/release/repository.py",
        (
            "ReleaseRepository.exclusive",
            "ReleaseRepository._claimed",
            "ReleaseRepository.holds",
            "ReleaseRepository.keep",
        ),
        ("tests/release/test_release.py",),
    ),
    Target(
        "digests",
        "edgewright_runtime/bundle/opening.py",
        ("open_bundle", "check_file", "file_digest"),
        ("tests/runtime/test_bundle.py", "tests/package/test_bundle.py"),
    ),
    Target(
        "digests",
        "edgewright_runtime/bundle/release.py",
        ("judge_index", "check_release", "check_manifest", "in_cohort", "_signed_part"),
        ("tests/runtime/test_release.py", "tests/runtime/test_updater.py"),
    ),
    Target(
        "digests",
        "edgewright_runtime/codec/patch.py",
        ("apply_patch", "_exactly", "_unpacked"),
        ("tests/runtime/test_patch.py",),
    ),
    Target(
        "rollback",
        "edgewright_runtime/update/updater.py",
        ("Updater._updated",),
        ("tests/runtime/test_updater_guards.py", "tests/runtime/test_updater.py", "tests/runtime/test_patch.py"),
    ),
    Target(
        "rollback",
        "edgewright_runtime/update/bundle_fetch.py",
        ("BundleFetch._patch", "is_sound", "_write_checked"),
        ("tests/runtime/test_updater_guards.py", "tests/runtime/test_updater.py", "tests/runtime/test_patch.py"),
    ),
    Target(
        "rollback",
        "edgewright_runtime/update/installation.py",
        (
            "Installation.exclusive",
            "Installation.highest_version",
            "Installation.postponed",
            "Installation.activate",
            "Installation.rollback",
            "Installation.keep_beside",
            "Installation._raise_highest",
        ),
        (
            "tests/runtime/test_installation.py",
            "tests/runtime/test_updater.py",
            "tests/runtime/test_registry.py",
            "tests/runtime/test_shortage.py",
        ),
    ),
    Target(
        "rollback",
        "edgewright_runtime/update/registry.py",
        ("Model.fits", "Registry.collect", "Registry._remove", "Registry._unused", "_within"),
        ("tests/runtime/test_registry.py",),
    ),
    Target(
        "rollback",
        "edgewright_runtime/health/watch.py",
        ("Watch._count", "_severity", "step_for"),
        ("tests/runtime/test_watch.py",),
    ),
)
