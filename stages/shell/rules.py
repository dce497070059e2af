"""The whole of params.yaml, and the rules between its sections: every command that takes --params asks this first.

The one idea: a stage depends on the sections it loads, so that a change elsewhere never reruns it; what is wrong
elsewhere still has to be said before hours have gone. No result depends on this room, so it may read the whole file.

Checked by: tests/stages/test_check.py.
"""

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.base.config import Params


def check_params(path: str) -> "Params":
    """Return all sections of a configuration file; ValueError, one line, when one is bad or two disagree."""
    from pipeline.base.config import SECTIONS, load_params

    params = load_params(path, SECTIONS)
    _check_token_ids(params)
    _check_statistics(params)
    _check_mixtures(params)
    _check_block_factors(params)
    _check_average(params)
    if params.train.context_stages is not None:
        from pipeline.training.contexts import check_contexts

        check_contexts(params.train.context_stages, params.model.context_tokens, params.train.batch_tokens)
    return params


def check_corpus(path: str) -> None:
    """Raise ValueError, one line, unless the prepared corpus has the vocabulary and the document starts of the file.

    For the stages that read the corpus: before `prepare` has run on the file, what lies there may be another's.
    """
    from pipeline.base.artifacts import path_of
    from pipeline.base.checks import require
    from pipeline.data.manifest import read_manifest

    params, manifest = check_params(path), read_manifest(path_of("manifest"))
    found, expected = params.model.vocab_size, f"{manifest['vocab_size']}, the vocabulary of the prepared shards"
    require(found == manifest["vocab_size"], "model.vocab_size", found, expected)
    for key, token in _document_starts(params).items():
        expected = f"{manifest['bos_id']}, with which documents of the prepared shards begin"
        require(token in (None, manifest["bos_id"]), key, token, expected)


def _check_block_factors(params: "Params") -> None:
    from pipeline.base.checks import require

    factors, blocks = getattr(params.train.matrix_lr, "block_factors", None), params.model.schedule.num_blocks
    expected = f"{blocks} numbers, one for each block of the model"
    require(factors is None or len(factors) == blocks, "train.matrix_lr.block_factors", factors, expected)


def _check_average(params: "Params") -> None:
    from pipeline.base.checks import require

    average, steps = params.train.average, params.train.max_steps
    every, from_frac = getattr(average, "every_steps", 1), getattr(average, "from_frac", 0.0)
    last = steps and steps // every * every - 1
    expected = f"steps of which one ends between average.from_frac and max_steps ({steps})"
    require(last is None or last >= from_frac * (steps or 0), "train.average.every_steps", every, expected)


def _check_token_ids(params: "Params") -> None:
    from pipeline.base.checks import require

    vocab_size = params.model.vocab_size
    require(
        vocab_size == params.data.vocab_size,
        "model.vocab_size",
        vocab_size,
        f"{params.data.vocab_size}, as data.vocab_size",
    )
    for key, token in _document_starts(params).items():
        require(token is None or token < vocab_size, key, token, f"a token id below model.vocab_size ({vocab_size})")


def _document_starts(params: "Params") -> dict[str, int | None]:
    """Return every token id that the file takes for the start of a document, by its key; None is off."""
    model, train, protocols = params.model, params.train, params.evaluate.protocols
    return {
        "model.attention.document_bos_id": model.attention.document_bos_id,
        "model.smear.bos_id": getattr(model.smear, "bos_id", None),
        "train.document_bos_id": train.document_bos_id,
        **{f"evaluate.protocols.{name}.bos_id": getattr(each, "bos_id", None) for name, each in protocols.items()},
    }


def _check_statistics(params: "Params") -> None:
    """Raise ValueError when `quantize` needs what `calibrate` does not collect, or counts other visits."""
    from pipeline.base.checks import require
    from pipeline.model.schedule import build_schedule

    calibrate, quantize = params.calibrate, params.quantize
    wanted = quantize.steps.kind == "rate" or quantize.visit_weights == "sensitivity"
    require(
        calibrate.sensitivity_sequences > 0 or not wanted,
        "calibrate.sensitivity_sequences",
        0,
        "above 0: quantize.steps of kind `rate` and visit_weights `sensitivity` need it",
    )
    require(
        calibrate.provisional.target_share > 0 or quantize.target_share == 0,
        "calibrate.provisional.target_share",
        0,
        "above 0, which quantize.target_share above 0 needs",
    )
    visits = max(Counter(visit.block for visit in build_schedule(params.model.schedule).visits).values())
    weights = quantize.visit_weights
    require(
        isinstance(weights, str) or len(weights) >= visits,
        "quantize.visit_weights",
        weights,
        f"{visits} numbers or more, the visits of a block",
    )


def _check_mixtures(params: "Params") -> None:
    """Raise ValueError when a protocol asks for constants that its weights will not hold."""
    from pipeline.base.checks import require

    mixture = params.calibrate.mixture
    context, key = params.model.context_tokens, "calibrate.mixture.tokens"
    require(
        mixture is None or mixture.tokens > context, key, mixture and mixture.tokens, f"above {context}, a sequence"
    )
    there = {None, *(["document"] if mixture else []), *(["stream"] if mixture and mixture.stream_orders else [])}
    for name, protocol in params.evaluate.protocols.items():
        wanted, key = protocol.mixture, f"evaluate.protocols.{name}.mixture"
        require(name != "float" or wanted is None, key, wanted, "null: a checkpoint holds no constants of counts")
        orders = "calibrate.mixture" if wanted == "document" else "calibrate.mixture with stream_orders"
        require(wanted in there, key, wanted, f"null, or {orders}")
