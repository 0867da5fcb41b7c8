"""Positions, timesteps and patches against closed forms and against diffusers."""

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed, get_2d_sincos_pos_embed, get_timestep_embedding
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

from skipdit.nn.embeddings import (
    PatchEmbed,
    TimestepEmbedder,
    rotary_tables,
    sincos_1d,
    sincos_2d,
    timestep_sinusoid,
    unpatchify,
)  # fmt: skip


def test_a_coordinate_is_its_sines_then_its_cosines():
    code = sincos_1d(torch.tensor([0.0, 2.0]), 4)
    angles = torch.tensor([[0.0, 0.0], [2.0, 2.0 / 100]], dtype=torch.float64)
    torch.testing.assert_close(code, torch.cat([angles.sin(), angles.cos()], dim=-1), rtol=1e-15, atol=0)


@pytest.mark.parametrize("side", [4, 16])
def test_square_positions_equal_diffusers(side):
    theirs = get_2d_sincos_pos_embed(32, side, base_size=side, output_type="pt")
    assert torch.equal(sincos_2d(side, side, 32), theirs.float())


def test_the_column_fills_the_first_half_of_a_position_and_the_row_the_second():
    table = sincos_2d(2, 3, 8).reshape(2, 3, 8)
    assert torch.equal(table[0, :, :4], table[1, :, :4])
    assert torch.equal(table[:, 0, 4:], table[:, 2, 4:])
    torch.testing.assert_close(table[1, 2, :4], sincos_1d(torch.tensor([2.0]), 4)[0].float())
    torch.testing.assert_close(table[1, 2, 4:], sincos_1d(torch.tensor([1.0]), 4)[0].float())


def test_a_larger_grid_continues_a_smaller_one():
    assert torch.equal(sincos_2d(5, 7, 16).reshape(5, 7, 16)[:3, :4], sincos_2d(3, 4, 16).reshape(3, 4, 16))


@pytest.mark.parametrize("timesteps", [torch.tensor([0, 1, 500, 999]), torch.tensor([0.5, 998.25])])
def test_the_timestep_sinusoid_equals_diffusers_without_frequency_shift(timesteps):
    """diffusers' DiT shifts by one (divides by 127); the published one does not."""
    theirs = get_timestep_embedding(timesteps, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(timestep_sinusoid(timesteps), theirs, rtol=0, atol=1e-4)
    assert torch.equal(timestep_sinusoid(torch.zeros(1)), torch.tensor([[1.0] * 128 + [0.0] * 128]))


def test_a_timestep_is_embedded_in_the_asked_dtype_with_angles_in_float32():
    embedder = TimestepEmbedder(8).bfloat16()
    timestep = torch.tensor([999])
    embedded = embedder(timestep, dtype=torch.bfloat16)
    assert torch.equal(embedded, embedder.mlp(timestep_sinusoid(timestep).bfloat16()))
    assert timestep_sinusoid(timestep.bfloat16()).dtype == torch.float32


def test_patches_are_read_row_by_row():
    embed = PatchEmbed(in_channels=1, hidden_size=1, patch_size=2)
    embed.proj.weight.data.fill_(1)
    image = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert torch.equal(embed(image).flatten(), torch.nn.functional.avg_pool2d(image, 2).flatten() * 4)


def test_unpatchify_lays_out_row_column_channel():
    patches = torch.arange(2 * 3 * 4 * 5.0).reshape(1, 6, 20)  # 2 x 3 patches of 2 x 2 pixels of 5 channels
    image = unpatchify(patches, height=2, width=3, patch_size=2)
    assert image.shape == (1, 5, 4, 6)
    for row, column, channel in [(0, 0, 0), (1, 4, 3), (3, 5, 4), (2, 1, 0)]:
        token, inside = (row // 2) * 3 + column // 2, (row % 2) * 2 + column % 2
        assert image[0, channel, row, column] == patches[0, token, inside * 5 + channel]


def test_patches_are_rotated_by_where_they_begin_in_a_square_that_the_longer_side_fills():
    """The closed form in float64; coordinates of up to 32 in float32 leave 4e-6."""
    for grid in [(1, 1), (4, 4), (5, 5), (64, 64), (8, 4), (48, 80), (80, 48), (7, 5), (96, 72)]:
        tables = rotary_tables(*grid, 88, base=32, device=torch.device("cpu"))
        angles = rotary_angles(*grid, head_dim=88, base=32)
        for table, expected in zip(tables, (np.cos(angles), np.sin(angles)), strict=True):
            assert table.dtype == torch.float32
            np.testing.assert_allclose(table.numpy(), expected, rtol=0, atol=4e-6)


def rotary_angles(height: int, width: int, *, head_dim: int, base: int) -> np.ndarray:
    """[height * width, head_dim]: columns in the first half, each angle twice."""
    longest = max(height, width)
    coordinates = []
    for side in (width, height):
        extent = round(base / longest * side)
        first = round((base - extent) / 2)
        coordinates.append(np.linspace(first, first + extent, side, endpoint=False))
    columns, rows = np.meshgrid(*coordinates)
    frequencies = 10000.0 ** (-2 * np.arange(head_dim // 4) / (head_dim // 2))
    halves = [np.repeat(np.outer(u.ravel(), frequencies), 2, axis=1) for u in (columns, rows)]
    return np.concatenate(halves, axis=1)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 32, 64, 80])
@pytest.mark.parametrize("base", [16, 32, 64])
def test_rotations_of_squares_equal_diffusers_and_of_others_do_not(side, base):
    """diffusers scales where a side ends, not how long it is: its error begins where a side does not begin at 0.

    Where the shorter side is a single patch, diffusers never uses where it ends.
    """
    device = torch.device("cpu")
    for grid, equal in (((side, side), True), ((2 * side, side), False), ((side, 3 * side), False)):
        crops = get_resize_crop_region_for_grid(grid, base)
        theirs = get_2d_rotary_pos_embed(24, crops, grid, output_type="pt")
        ours = rotary_tables(*grid, 24, base=base, device=device)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)) == (equal or side == 1)


def test_rotations_need_two_angles_for_each_of_two_axes():
    with pytest.raises(ValueError, match="head_dim is 6: it must be a multiple of 4"):
        rotary_tables(2, 2, 6, base=32, device=torch.device("cpu"))
