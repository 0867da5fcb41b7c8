"""One forward pass: embeddings, attention, blocks, long skips and the one loop over layers. torch + einops only."""
