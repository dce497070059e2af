"""`fairway sample`: what a model writes."""

import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.shell.console import log, params_path_option
from stages.shell.models import device_option, open_source, tokenizer_option

if TYPE_CHECKING:
    from pipeline.inference.source import FinishedModel


@click.command()
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--prompt", default="", help="What the text begins with. Default: nothing, as a document begins.")
@click.option(
    "--tokens", "num_tokens", type=click.IntRange(min=1), default=200, show_default=True, help="Tokens to add, at most."
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Below 1 what is probable becomes more so; 0 always takes the most probable token.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="The same seed draws the same text on one machine.",
)
@tokenizer_option
@device_option
@params_path_option
def sample(
    source: Path | None,
    prompt: str,
    num_tokens: int,
    temperature: float,
    seed: int,
    tokenizer: Path | None,
    device: str,
    params_path: str,
) -> None:
    """Let a model write: print a text that it continues, token after token.

    SOURCE is a checkpoint (.safetensors), an artifact (.fwy) or a record folder. Default: the artifact of the first
    seed of params.yaml, else its checkpoint. Tokens are drawn from the model's own distribution. The text ends where
    the model ends its document, or after --tokens. It may be longer than the context: then each token sees the last
    ones only. Prints the text to stdout, the prompt included, and nothing else there; writes no file.

    \b
    fairway sample --prompt "The city of" --tokens 50
    fairway sample artifacts/submission --temperature 0.8
    """
    import torch

    from pipeline.base.checks import counted
    from pipeline.data.case_ops import case_form
    from pipeline.inference.pieces import TextOfTokens, piece_bytes
    from pipeline.inference.sampling import SamplingConfig, continued

    torch.set_num_threads(1)  # a product's last bits depend on how many threads share it; one token fills no more
    config = SamplingConfig(temperature=temperature, seed=seed)
    opened = open_source(source, tokenizer, device, params_path)
    begun, ends = _prompt_tokens(opened, prompt), {opened.processor.bos_id(), opened.processor.eos_id()}
    text, started, count = TextOfTokens(piece_bytes(opened.processor), case_form(opened.processor)), time.monotonic(), 0
    _print("".join(map(text.add, begun)))
    how = f"stopped after {counted(num_tokens, 'token')} (--tokens)"
    for token in islice(continued(opened.model, begun, config), num_tokens):
        if token in ends:
            how = f"the model ended its document after {counted(count, 'token')}"
            break
        count += 1
        _print(text.add(token))
    _print(text.end() + "\n")
    log(f"{how}, {count / max(time.monotonic() - started, 1e-9):.0f} tokens/s")


def _prompt_tokens(opened: "FinishedModel", prompt: str) -> list[int]:
    """Return BOS and the prompt's tokens; stderr says what of the prompt the model will not see."""
    from pipeline.data.text import normalised_text
    from pipeline.inference.documents import Document, encoded

    context = opened.model.config.context_tokens
    tokens = [opened.processor.bos_id(), *encoded(opened, Document("--prompt", prompt)).tokens_M[1:].tolist()]
    read_as = normalised_text(opened.processor, prompt)
    if read_as != prompt:
        log(f"the tokenizer reads the prompt as {read_as!r:.200}")
    if len(tokens) > context:
        log(f"of the prompt's {len(tokens):,} tokens the model sees the last {context:,}")
    return tokens


def _print(text: str) -> None:
    """Write text to stdout at once, as UTF-8 whatever the locale says."""
    click.echo(text.encode(), nl=False)
