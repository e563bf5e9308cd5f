"""Makes the model the suite serves: a two-layer Llama and a byte-level tokenizer, trained here on Python's library.

    make_model.py DIRECTORY        (with the vLLM environment's Python; under a minute on one core, no network)

Trained, not random: greedy decoding of random weights yields bytes that are no UTF-8, which vLLM holds back, and then a
stream would have fewer events than tokens. What the model says does not matter otherwise.
"""

import os
import random
import sys
import sysconfig
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT_TOKENS = 32768
VOCABULARY = 2048
STEPS, BATCH, WINDOW = 250, 16, 128
START, END, PAD, TURN = "<|endoftext|>", "<|im_end|>", "<pad>", "<|im_start|>"

# The ChatML layout; content may be a string or a list of text parts.
CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system
Tools: {{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content or [] %}{{ part.text or '' }}{% endfor %}
{%- endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def read_corpus() -> str:
    """Up to 3 MB of the standard library's sources, ASCII only."""
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in sources)
    return text.encode("ascii", "ignore").decode()[:3_000_000]


def train_tokenizer(corpus: str) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START, TURN, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus.splitlines(keepends=True), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def train_model(tokenizer: PreTrainedTokenizerFast, corpus: str) -> LlamaForCausalLM:
    specials = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        **specials,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**specials)
    tokens = torch.tensor(tokenizer(corpus[:1_500_000])["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        starts = torch.randint(0, len(tokens) - WINDOW, (BATCH,)).tolist()
        batch = torch.stack([tokens[start : start + WINDOW] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} of {STEPS}, loss {loss.item():.2f}", flush=True)
    return model


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    corpus = read_corpus()
    tokenizer = train_tokenizer(corpus)
    model = train_model(tokenizer, corpus)
    tokenizer.save_pretrained(sys.argv[1])
    model.save_pretrained(sys.argv[1])
    print(f"{model.num_parameters():,} parameters in {sys.argv[1]}")


if __name__ == "__main__":
    main()
