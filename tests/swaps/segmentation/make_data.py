"""Write data/discs.pt: noisy grey pictures of a disc, and masks of the pixels that belong to it."""

import torch

torch.manual_seed(0)
count = 400
places = torch.arange(16.0)
centre_x, centre_y = torch.empty(2, count, 1, 1).uniform_(4, 12)
radius = torch.empty(count, 1, 1).uniform_(2, 5)
distances = torch.hypot(places[None, None] - centre_x, places[None, :, None] - centre_y) - radius
masks = (distances < 0).long()
images = (0.3 * masks + 0.7 * torch.rand(count, 16, 16)).clamp(0, 1)
masks[distances.abs() < 0.4] = -1  # at the border, where nobody can tell
torch.save({"images": images, "masks": masks}, "data/discs.pt")
