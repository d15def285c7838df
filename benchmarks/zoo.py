"""The public zoo: does a model that people have convert, on three platforms, in float32 and int8?

    make zoo                       everything, peers included: hours
    make zoo FAST=1                seven small models without peers: minutes; exit code 1 if a cell crashed or is wrong
    python benchmarks/zoo.py --only timm-conv own- --platform ios --no-peers

For each model of `zoo_models`: `edgewright.intake.take_in`, then `edgewright.export.export` for every platform and
precision; a peer's conversion has a process of its own. Parity is measured here, on the test rows and on every output,
against the source model run by its own framework. What was done is kept under ``.zoo/cells``, by a digest of the code
of ``edgewright/`` and of the model, so that an interrupted run resumes; with ``--hours`` it ends by itself. The cells
stand in ``benchmarks/results/zoo_records.json`` as well, so that another machine goes on; ``--earlier`` takes our green
cells of earlier code from there too, and the page says how many.
Writes ``benchmarks/results/zoo.json`` and ``docs/zoo.md``; with ``--only``, ``--family``, ``--platform`` or FAST the
figures are printed and neither is written.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import zoo_child
from benchmarks.zoo_cells import COLUMNS, DB_LIMIT, OURS, Column, Record, digest_of_parts, is_raw, outcome_of
from benchmarks.zoo_code import digest_of_code
from benchmarks.zoo_environment import FOLDER, ensure_onnx2tf, ensure_site
from benchmarks.zoo_models import FAMILIES, MODELS, build, roster
from benchmarks.zoo_page import page
from benchmarks.zoo_peers import PEERS, peers_of
from benchmarks.zoo_report import report, summary
from benchmarks.zoo_source import model_file
from edgewright.artifact import digest_of

RESULT = Path(__file__).parent / "results" / "zoo.json"
RECORDS = RESULT.with_name("zoo_records.json")
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
CELLS = FOLDER / "cells"
FAST = (
    "torchvision-mobilenet_v3_small",
    "transformers-bert_two_outputs",
    "transformers-gpt2",
    "keras-same_padding",
    "own-chunk_and_split",
    "own-rnn_tanh",
    "own-u_net",
)
"""Small and diverse: a convolutional network, attention, tokens, a decoder, Keras, splits, recurrence, upsampling."""
_OUR_CODE = ("edgewright", "edgewright_runtime", "torch", "coremltools", "litert-torch", "onnxruntime", "tensorflow")
_PEER_CODE = ("torch", "coremltools", "litert-torch", "ai-edge-quantizer", "onnxruntime", "tensorflow", "tf2onnx")
_EVALUATOR = tuple(f"edgewright.export.mil_{part}" for part in ("evaluator", "operators", "program"))


class Zoo:
    """Runs the cells of models, and remembers them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.models: Path = arguments.models
        self.columns = [c for c in COLUMNS if not arguments.platform or c.platform in arguments.platform]
        self.limit_s: float = 60 * arguments.minutes
        self.again = tuple(arguments.rerun)
        self.failed: bool = arguments.failed
        self.peers_alone: bool = arguments.peers_alone
        self.peers: bool = arguments.peers
        self.on_record = _on_record()
        self.takes_earlier: bool = arguments.earlier
        self.reports_only: bool = arguments.hours == 0
        self.earlier: set[tuple[str, Column]] = set()
        self._end = time.monotonic() + 3600 * arguments.hours
        self._code = digest_of_code(*_OUR_CODE)
        self._evaluator = digest_of_code(*_EVALUATOR)
        self._peer_code = digest_of_parts(
            digest_of_code(*_PEER_CODE), Path(__file__).with_name("zoo_peers.py").read_text()
        )

    def run(self, name: str) -> list[Record]:
        """Every record of a model, ours and the peers'; none where the time is over and a cell is missing."""
        folder, family = self.models / name, name.partition("-")[0]
        identity = digest_of_parts(_content(model_file(folder)), digest_of(folder / "data.npz"))
        found = _Model(self, name, family, folder, identity)
        if time.monotonic() > self._end and not found.is_complete():
            return []
        records = [] if self.peers_alone else found.ours()
        records += found.of_peers() if self.peers else found.of_own_quantizers(records)
        records = [found.beside_rounding(record) for record in records]
        shutil.rmtree(FOLDER / "work" / name, ignore_errors=True)
        for record in records:
            print(summary(record), flush=True)
        return records

    def key(self, identity: str, tool: str) -> str:
        """What a record depends on."""
        if tool == OURS:
            return digest_of_parts(identity, self._code)
        return digest_of_parts(identity, self._peer_code, self._evaluator if PEERS[tool].platform == "ios" else "")


def _content(path: Path) -> str:
    """The digest of a model's file; a ``.keras`` archive is made anew with the time in it, which is left out."""
    if path.suffix != ".keras":
        return digest_of(path)
    with zipfile.ZipFile(path) as archive:
        parts = {entry: archive.read(entry) for entry in archive.namelist()}
    parts["metadata.json"] = json.dumps({**json.loads(parts["metadata.json"]), "date_saved": ""}).encode()
    return digest_of_parts(*(f"{entry} {hashlib.sha256(data).hexdigest()}" for entry, data in sorted(parts.items())))


def _on_record() -> dict[tuple[str, str, str], dict[str, Any]]:
    """Cells of earlier runs by model, tool and column."""
    found = json.loads(RECORDS.read_text()) if RECORDS.is_file() else []
    return {_cell_of(value): value for value in found}


def _cell_of(value: dict[str, Any]) -> tuple[str, str, str]:
    record = Record.from_json(value["record"])
    return record.model, record.tool, str(record.column)


def _put_on_record() -> None:
    """Put the cells of this machine on record, in the place of earlier ones."""
    kept = _on_record()
    for path in CELLS.glob("*/*.json"):
        value = json.loads(path.read_text())
        kept[_cell_of(value)] = value
    lines = (json.dumps(value) for _, value in sorted(kept.items()))
    RECORDS.write_text("[\n" + ",\n".join(lines) + "\n]\n")


class _Model:
    """One model's cells. Its store is made when first needed and removed with the model."""

    def __init__(self, zoo: Zoo, name: str, family: str, folder: Path, identity: str) -> None:
        self.zoo, self.name, self.family, self.folder, self.identity = zoo, name, family, folder, identity
        self.work = FOLDER / "work" / name
        self.answers = FOLDER / "answers" / f"{identity}.npz"
        self._intake: zoo_child.Ended | None = None
        self._no_answers: zoo_child.Ended | None = None
        self._rounding: zoo_child.Ended | None = None
        self._ran: dict[str, zoo_child.Ended] = {}

    def is_complete(self) -> bool:
        """All cells are there, of the present code."""
        cells = [] if self.zoo.peers_alone else [(OURS, column) for column in self.zoo.columns]
        cells += [(peer, column) for peer, column in self._peers() if self.zoo.peers and self._referee() is None]
        return all(self._cached(tool, column) for tool, column in cells)

    def ours(self) -> list[Record]:
        """Our cells, from the cache where nothing changed."""
        return [self._cached(OURS, column) or self._kept(self._converted(column)) for column in self.zoo.columns]

    def of_peers(self) -> list[Record]:
        """The peers' cells; one that starts from another's file runs with it. None for a source without answers."""
        if self._referee() is not None:  # the source does not run on rows: nothing to compare a peer with
            return []
        return [self._cached(peer, column) or self._kept(self._tried(peer, column)) for peer, column in self._peers()]

    def of_own_quantizers(self, records: list[Record]) -> list[Record]:
        """What the platform's own quantizer gives where ours is below the limit: the rule asks for it."""
        noisy = {r.column for r in records if r.column.precision == "int8" and r.least_decibels < DB_LIMIT}
        return [
            self._cached(peer, column) or self._kept(self._tried(peer, column))
            for peer, column in self._peers()
            if column in noisy
        ]

    def beside_rounding(self, record: Record) -> Record:
        """A float32 record that the fixed limit calls wrong, with the source's own rounding, which is asked once."""
        is_beyond = record.status == "made" and record.column.precision == "float32" and outcome_of(record) == "wrong"
        if not is_beyond or record.mismatch or record.source_rounding is not None or self._referee() is not None:
            return record
        if self._rounding is None:
            asked = {"folder": str(self.folder), "answers": str(self.answers)}
            self._rounding = self._step("zoo_source:own_rounding", asked)
        if self._rounding.kind != "value" or self._rounding.value is None:
            return record
        return self._kept(dataclasses.replace(record, source_rounding=self._rounding.value))

    def _peers(self) -> list[tuple[str, Column]]:
        all_peers = [
            (p, Column(PEERS[p].platform, PEERS[p].precision)) for p in peers_of(model_file(self.folder).suffix)
        ]
        return [(peer, column) for peer, column in all_peers if column in self.zoo.columns]

    def _file(self, tool: str, column: Column) -> Path:
        return CELLS / self.name / f"{tool} {column}.json".replace(" ", "_")

    def _cached(self, tool: str, column: Column) -> Record | None:
        path = self._file(tool, column)
        if self.name.startswith(self.zoo.again or ("\0",)):
            return None
        on_record = self.zoo.on_record.get((self.name, tool, str(column)))
        value = json.loads(path.read_text()) if path.is_file() else on_record
        if value is None:
            return None
        record = Record.from_json(value["record"])
        # Another machine builds the same recipe's weights with other last bits, so with another identity.
        if value["identity"] != self.identity or value["key"] != self.zoo.key(self.identity, tool):
            # What is only reported is as it stands on record: without its failures a run would look better than it was.
            is_taken = tool != OURS or outcome_of(record) == "green" or self.zoo.reports_only
            if not (self.zoo.takes_earlier and is_taken):
                return None
            if tool == OURS:
                self.zoo.earlier.add((self.name, column))
        return None if self.zoo.failed and tool == OURS and record.status != "made" else record

    def _kept(self, record: Record) -> Record:
        path = self._file(record.tool, record.column)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_suffix(".part")
        key = self.zoo.key(self.identity, record.tool)
        value = {"identity": self.identity, "key": key, "record": record.to_json()}
        staged.write_text(json.dumps(value, indent=1))
        staged.replace(path)
        return record

    def _step(self, function: str, arguments: dict[str, Any]) -> zoo_child.Ended:
        forked = model_file(self.folder).suffix != ".keras"
        return zoo_child.run(f"benchmarks.{function}", arguments, limit_s=self.zoo.limit_s, forked=forked)

    def _referee(self) -> zoo_child.Ended | None:
        """The source's own answers are there, or why they are not."""
        if self._no_answers is None and not self.answers.is_file():
            ended = self._step("zoo_source:save_answers", {"folder": str(self.folder), "path": str(self.answers)})
            self._no_answers = None if ended.kind == "value" else ended
        return self._no_answers

    def _converted(self, column: Column) -> Record:
        store = {"folder": str(self.folder), "store": str(self.work / "store")}
        if self._intake is None:
            self._intake = zoo_child.run_here("benchmarks.zoo_ours:taken_in", store)
        if self._intake.kind != "value":
            return self._ended(OURS, column, self._intake, "intake")
        unanswered = self._referee()
        if unanswered is not None:
            return self._ended(OURS, column, unanswered, "reference")
        asked = {"platform": column.platform, "precision": column.precision, "answers": str(self.answers)}
        given = {**store, "intake": self._intake.value["intake"], **asked}
        ended = zoo_child.run_here("benchmarks.zoo_ours:exported", given)
        return self._ended(OURS, column, ended, "export")

    def _tried(self, peer: str, column: Column) -> Record:
        start = PEERS[peer].starts_from.get(model_file(self.folder).suffix)
        if start is not None and start not in self._ran:  # its record came from the cache, its file is gone
            self._direct(start)
        if start is not None and self._ran[start].kind != "value":
            nothing = zoo_child.Ended("error", 0.0, message=f"{start} gave no file to start from")
            return self._ended(peer, column, nothing, "convert")
        return self._ended(peer, column, self._direct(peer), "convert")

    def _direct(self, peer: str) -> zoo_child.Ended:
        asked = {"peer": peer, "folder": str(self.folder), "work": str(self.work / "peers")}
        self._ran[peer] = self._step("zoo_peers:tried", {**asked, "answers": str(self.answers)})
        return self._ran[peer]

    def _ended(self, tool: str, column: Column, ended: zoo_child.Ended, stage: str) -> Record:
        identity = {"model": self.name, "family": self.family, "tool": tool, "column": column}
        if ended.kind != "value":
            message = ended.message
            for root in (
                self.zoo.models,
                FOLDER.parent,
                Path(sys.prefix).resolve().parent,
                Path(tempfile.gettempdir()),
            ):
                message = message.replace(f"{root}/", "")
            raw = is_raw(ended.is_edgewright, ended.message, ended.error_notes)
            return Record(
                **identity, status="died" if ended.kind == "died" else "error", stage=stage, message=message,
                raw=raw and tool == OURS, seconds=round(ended.seconds, 1),
            )  # fmt: skip
        value = dict(ended.value)
        if tool == OURS and self._intake is not None:
            value["intake_seconds"] = round(self._intake.value["seconds"], 1)
        value["seconds"] = round(value["seconds"], 1)
        return Record.from_json(
            {**identity, "column": vars(column), "status": "made", "parity": [], "notes": [], **value}
        )


def main() -> None:
    arguments = _arguments()
    ensure_site()
    names = _chosen(arguments)
    failures = build([r for r in roster() if r.name in names], arguments.models)
    if arguments.peers:
        ensure_onnx2tf()
    zoo = Zoo(arguments)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # for our own children, which start in other folders
    built = [name for name in names if (arguments.models / name / "model.json").is_file()]
    with ThreadPoolExecutor(arguments.processes) as pool:
        records = [record for found in pool.map(zoo.run, built) for record in found]
    if not arguments.fast:
        _put_on_record()
    if arguments.peers_alone:
        return
    result = report(records, arguments.models, failures, wanted=len(names), earlier=len(zoo.earlier))
    print(json.dumps(result["figures"], indent=1))
    if not (arguments.only or arguments.family or arguments.platform or arguments.fast):
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        PAGE.write_text(page(result))
    ours = result["figures"]["edgewright"]["all"]
    if arguments.fast and (ours["crashed"] or ours["wrong"] or len(built) < len(names)):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="seven small models, no peers")
    parser.add_argument("--only", nargs="+", default=[], help="models by name, or by the beginning of it")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=[])
    parser.add_argument("--platform", nargs="+", choices=sorted({c.platform for c in COLUMNS}), default=[])
    parser.add_argument("--first", type=int, help="so many models, of each family in proportion; left out, all")
    parser.add_argument("--rerun", nargs="+", default=[], help="models whose cells are computed again")
    parser.add_argument("--failed", action="store_true", help="our cells without a file are computed again")
    parser.add_argument(
        "--earlier",
        action="store_true",
        help="our green cells of earlier code, and all of another machine's builds by peers, are taken",
    )
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument(
        "--hours", type=float, default=1000, help="after these no model is begun; 0: report what is there"
    )
    parser.add_argument("--peers-alone", action="store_true", help="only fill the cache with the peers' cells")
    parser.add_argument("--processes", type=int, default=1, help="models at a time")
    parser.add_argument("--minutes", type=float, default=10, help="limit of one step")
    parser.add_argument("--models", type=Path, default=MODELS, help="where the models are, or are built")
    found = parser.parse_args()
    found.peers = found.peers and not found.fast
    return found


def interleaved(names: list[str]) -> list[str]:
    """One of each place in turn, in proportion to how many it has: a run that ends early has seen all kinds."""
    places: dict[str, list[str]] = {}
    for name in names:
        places.setdefault(name.partition("-")[0], []).append(name)
    shares = [((i + 0.5) / len(found), name) for found in places.values() for i, name in enumerate(found)]
    return [name for _, name in sorted(shares)]


def _chosen(arguments: argparse.Namespace) -> list[str]:
    names = FAST if arguments.fast else interleaved([r.name for r in roster()])
    only = tuple(arguments.only) or ("",)
    families = set(arguments.family) or set(FAMILIES)
    chosen = [n for n in names if n.startswith(only) and n.partition("-")[0] in families][: arguments.first]
    if not chosen:
        sys.exit(f"no model of the zoo begins with {', '.join(only)}")
    return chosen


if __name__ == "__main__":
    main()
