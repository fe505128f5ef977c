# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of tiny models: WordPiece with 800 pieces from the demo text."""

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizerFast

# Made once by WordPieceTrainer from 1,500 demo sentences and stored, because the trainer breaks ties by a hash that
# differs in each process: each test run would train and test different models.
VOCABULARY = Path(__file__).with_name("tiny_vocabulary.txt")
PIECES = 800


def save_tiny_tokenizer(folder: Path, max_length: int) -> None:
    """Write the tokenizer into a checkpoint folder."""
    pieces = VOCABULARY.read_text(encoding="utf-8").splitlines()
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length).save_pretrained(folder)
