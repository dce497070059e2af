"""The scoring benchmark: both paths score alike, and its count of multiply-adds is the sum over visits."""

import torch

from benchmarks.scoring import measure_shortcut, multiply_adds, random_windows, recipe_model


def test_both_paths_give_the_same_nats_and_the_shortcut_multiplies_less() -> None:
    result = measure_shortcut(recipe_model(64, "small"), random_windows(64, 1, 97), 16, 1)
    assert result["largest_difference_nats"] < 1e-5
    assert result["predicted_speed_up"] > 1
    assert result["full"]["multiply_adds"] > result["shortcut"]["multiply_adds"] > 0


@torch.no_grad()
def test_what_is_saved_is_the_last_visit_without_keys_and_values_and_the_head() -> None:
    model, num_tokens, num_scored = recipe_model(64, "small"), 40, 4
    last = model.blocks[model.schedule.visits[-1].block]
    skipped = sum(weight.numel() for weight in last.mlp.parameters()) + model.token_embedding.weight.numel()
    skipped += last.attention.query.weight.numel() + last.attention.output.weight.numel()
    pairs = (num_tokens - num_scored) * (num_tokens - num_scored + 1) // 2
    saved = (num_tokens - num_scored) * skipped + 2 * pairs * model.config.model_dim
    assert multiply_adds(model, num_tokens, None) - multiply_adds(model, num_tokens, num_scored) == saved
