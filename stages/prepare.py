"""`fairway prepare`: corpus -> tokenizer, shards, byte table, manifest."""

import click

from stages.shell.console import params_option, seal


@click.command()
@params_option
def prepare(params_path: str) -> None:
    """Turn a corpus into a SentencePiece tokenizer, train and val shards, a byte table and a manifest.

    Reads section `data`. Documents go to val by a hash of their content, or val is data.val_files; published shards
    come with their own split and stay in data.fineweb.folder. Writes artifacts/data/.
    """
    from pipeline.base.artifacts import CACHE, outputs_of, path_of, write_json
    from pipeline.base.checks import counted, one_line
    from pipeline.base.config import load_params
    from pipeline.corpus.prepare import LEFT_OUT_KEY
    from pipeline.corpus.prepare import prepare as prepare_data
    from pipeline.corpus.separators import separator_note
    from pipeline.corpus.source_files import unread_files
    from pipeline.corpus.text_files import TEXT_SUFFIXES
    from pipeline.data.manifest import split_fingerprints
    from pipeline.data.overlap import overlap_limit, overlap_line

    config = load_params(params_path, ["data"]).data
    stage = seal("prepare", {"data": config}, [], outputs_of("prepare"), 0, f"source {config.source}")
    if unread := unread_files([*config.files, *config.val_files], TEXT_SUFFIXES):
        names = one_line(", ".join(map(str, unread)))
        stage.log(
            f"prepare: left out {counted(len(unread), 'file')}, ending in none of {', '.join(TEXT_SUFFIXES)}: {names}"
        )
    if note := separator_note(config):
        stage.log(f"prepare: {note}")
    with stage.progress("prepare", "shards" if config.source == "fineweb" else "documents") as progress:
        manifest = prepare_data(config, path_of("manifest").parent, CACHE, progress)
    write_json(path_of("prepare_report"), {"provenance": stage.provenance})
    if left_out := manifest.get(LEFT_OUT_KEY):
        stage.log(f"prepare: left out {counted(left_out, 'document')} of data.files that data.val_files hold too")
    stage.log(f"prepare: {overlap_line(manifest['overlap'])}")
    if limit := overlap_limit(manifest["overlap"]):
        stage.log(f"prepare: check T10 of the audit will fail: {limit}")
    for split, digest in split_fingerprints(manifest).items():
        stage.log(f"prepare: fingerprint of {split} {digest}")
    train, val = manifest["splits"]["train"], manifest["splits"]["val"]
    stage.summary(
        f"prepare: {train['documents']:,} train and {counted(val['documents'], 'val document')}, "
        f"vocabulary {config.vocab_size}",
        f"         {train['tokens']:,} train and {val['tokens']:,} val tokens ({val['bytes']:,} val bytes); "
        f"unigram {manifest['unigram_bpb']:.4f} bpb",
    )
