"""Where the bytes of train_gpt.py are: for every source module, what it adds to the shipped file.

Run `python -m benchmarks.code_size [RECIPE ...]` (default: demo and nightcrawler-7f3c). Per module: `shipped`, by how
much the compressed program shrinks when the module's text is taken out of it, and `minified`, the bytes of that text.
Modules share patterns, so that the column `shipped` sums to less than the file. Last, the file of a program that only
reads an artifact: what decoding would cost by itself.

Checked by: tests/benchmarks/test_code_size.py (the decoder).
"""

import argparse
import re
from pathlib import Path

import brotli

from benchmarks.results import ROOT
from pipeline.base.config import SECTIONS, load_params
from pipeline.record.build import recipe_of, record_source
from pipeline.record.flatten import flatten
from pipeline.record.ship import minify, without_unused, wrap

_MARK = re.compile(r"\b\w+\('((?:pipeline)/[\w/]+\.py)'\)[;\n]")


def main() -> None:
    """Print a table per recipe."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.code_size", description=__doc__.split("\n")[0])
    parser.add_argument("recipes", metavar="RECIPE", nargs="*", default=["demo", "nightcrawler-7f3c"])
    for name in parser.parse_args().recipes:
        recipe = recipe_of(load_params(ROOT / "recipes" / f"{name}.yaml", SECTIONS))
        plain = minify(without_unused(record_source(recipe, ROOT)))
        print(f"{name}: train_gpt.py {len(wrap(plain)):,} bytes, {len(plain.encode()):,} unwrapped")
        print(f"{'shipped':>8} {'minified':>9}  module")
        for shipped, minified, module in module_sizes(minify(without_unused(record_source(recipe, ROOT, marked=True)))):
            print(f"{shipped:8,} {minified:9,}  {module}")
    print(f"an artifact's decoder alone: {len(decoder_program(ROOT)):,} bytes")


def decoder_program(root: Path) -> bytes:
    """Return the shipped form of a program that dequantizes the artifact `model.fwy` into `weights.npz`."""
    tail = "np.savez('weights.npz', **dequantize(read_artifact(Path('model.fwy'))[0]))"
    source = flatten("pipeline.codec.container", root, tail)
    return wrap(minify(without_unused(source)))


def module_sizes(marked: str) -> list[tuple[int, int, str]]:
    """Return (bytes of the compressed program, bytes of the minified one, module), most costly first.

    `marked`: the minified text of a program flattened with marks. What stands before the first mark are the imports;
    the recipe itself counts for the entry module, which comes last.
    """
    head, *rest = _MARK.split(marked)
    texts = {"(imports)": head, **dict(zip(rest[::2], rest[1::2], strict=True))}
    total = _compressed_bytes("".join(texts.values()))
    rows = []
    for module, text in texts.items():
        if text:
            others = "".join(other for name, other in texts.items() if name != module)
            rows.append((total - _compressed_bytes(others), len(text.encode()), module))
    return sorted(rows, reverse=True)


def _compressed_bytes(text: str) -> int:
    return len(brotli.compress(text.encode(), mode=brotli.MODE_TEXT, quality=11, lgwin=18))


if __name__ == "__main__":
    main()
